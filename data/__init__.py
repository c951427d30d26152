"""Data: tables with hidden entries, the order training sees them in, and loaders."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.data.catalogue import (
        factor_data as factor_data,
        factors_of as factors_of,
        is_file as is_file,
        load as load,
        loader as loader,
        names as names,
        remake as remake,
        sources as sources,
    )
    from ppl_models.data.store.h5_store import open as open, write as write
    from ppl_models.data.store.row_blocks import Blocks as Blocks
    from ppl_models.data.streams.colour_steps import (
        Colour as Colour,
        DropChannels as DropChannels,
        Grey as Grey,
        Solarise as Solarise,
    )
    from ppl_models.data.streams.drawn_sets import DrawnSets as DrawnSets, drawn_sets as drawn_sets
    from ppl_models.data.streams.image_steps import (
        Affine as Affine,
        Blur as Blur,
        Crop as Crop,
        CutOut as CutOut,
        Dihedral as Dihedral,
        Flip as Flip,
    )
    from ppl_models.data.streams.row_steps import (
        Dropout as Dropout,
        Noise as Noise,
        TimeJitter as TimeJitter,
    )
    from ppl_models.data.streams.stream import Stream as Stream
    from ppl_models.data.streams.views import Views as Views, views as views
    from ppl_models.data.tables.cells import from_anndata as from_anndata
    from ppl_models.data.tables.frames import from_frame as from_frame, from_xarray as from_xarray
    from ppl_models.data.tables.groups import from_groups as from_groups
    from ppl_models.data.tables.hiding import hide_labels as hide_labels
    from ppl_models.data.tables.own_arrays import from_arrays as from_arrays
    from ppl_models.data.tables.regimes import Regime as Regime
    from ppl_models.data.tables.supervision import (
        correlate as correlate,
        missing_patterns as missing_patterns,
        pair_by_class as pair_by_class,
        repeat as repeat,
        supervise as supervise,
        unpair as unpair,
        weak_pairs as weak_pairs,
    )
    from ppl_models.data.tables.table import Dataset as Dataset, Table as Table
    from ppl_models.data.tables.tokens import Tokens as Tokens

_HOMES = {
    "Affine": "streams.image_steps",
    "Blocks": "store.row_blocks",
    "Blur": "streams.image_steps",
    "Colour": "streams.colour_steps",
    "Crop": "streams.image_steps",
    "CutOut": "streams.image_steps",
    "Dataset": "tables.table",
    "Dihedral": "streams.image_steps",
    "DrawnSets": "streams.drawn_sets",
    "DropChannels": "streams.colour_steps",
    "Dropout": "streams.row_steps",
    "Flip": "streams.image_steps",
    "Grey": "streams.colour_steps",
    "Noise": "streams.row_steps",
    "Regime": "tables.regimes",
    "Solarise": "streams.colour_steps",
    "Stream": "streams.stream",
    "Table": "tables.table",
    "TimeJitter": "streams.row_steps",
    "Tokens": "tables.tokens",
    "Views": "streams.views",
    "correlate": "tables.supervision",
    "drawn_sets": "streams.drawn_sets",
    "factor_data": "catalogue",
    "factors_of": "catalogue",
    "from_anndata": "tables.cells",
    "from_arrays": "tables.own_arrays",
    "from_frame": "tables.frames",
    "from_groups": "tables.groups",
    "from_xarray": "tables.frames",
    "hide_labels": "tables.hiding",
    "is_file": "catalogue",
    "load": "catalogue",
    "loader": "catalogue",
    "missing_patterns": "tables.supervision",
    "names": "catalogue",
    "open": "store.h5_store",
    "pair_by_class": "tables.supervision",
    "remake": "catalogue",
    "repeat": "tables.supervision",
    "sources": "catalogue",
    "supervise": "tables.supervision",
    "unpair": "tables.supervision",
    "views": "streams.views",
    "weak_pairs": "tables.supervision",
    "write": "store.h5_store",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
