"""Data: tables with hidden entries, the order training sees them in, and loaders."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.data.catalogue import (
        factor_data as factor_data,
        is_file as is_file,
        load as load,
        loader as loader,
        names as names,
        remake as remake,
        sources as sources,
    )
    from ppl_models.data.store.h5_store import open as open, write as write
    from ppl_models.data.store.row_blocks import Blocks as Blocks
    from ppl_models.data.streams.stream import Stream as Stream
    from ppl_models.data.tables.cells import from_anndata as from_anndata
    from ppl_models.data.tables.frames import from_frame as from_frame, from_xarray as from_xarray
    from ppl_models.data.tables.hiding import hide_labels as hide_labels
    from ppl_models.data.tables.own_arrays import from_arrays as from_arrays
    from ppl_models.data.tables.regimes import Regime as Regime
    from ppl_models.data.tables.supervision import (
        correlate as correlate,
        repeat as repeat,
        supervise as supervise,
        unpair as unpair,
        weak_pairs as weak_pairs,
    )
    from ppl_models.data.tables.table import Dataset as Dataset, Table as Table

_HOMES = {
    "Blocks": "store.row_blocks",
    "Dataset": "tables.table",
    "Regime": "tables.regimes",
    "Stream": "streams.stream",
    "Table": "tables.table",
    "correlate": "tables.supervision",
    "factor_data": "catalogue",
    "from_anndata": "tables.cells",
    "from_arrays": "tables.own_arrays",
    "from_frame": "tables.frames",
    "from_xarray": "tables.frames",
    "hide_labels": "tables.hiding",
    "is_file": "catalogue",
    "load": "catalogue",
    "loader": "catalogue",
    "names": "catalogue",
    "open": "store.h5_store",
    "remake": "catalogue",
    "repeat": "tables.supervision",
    "sources": "catalogue",
    "supervise": "tables.supervision",
    "unpair": "tables.supervision",
    "weak_pairs": "tables.supervision",
    "write": "store.h5_store",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
