"""What a pair promises, as tests: subclass ``PairContract`` for a pair of your own."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.testing.contract import PairContract as PairContract

_HOMES = {
    "PairContract": "contract",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
