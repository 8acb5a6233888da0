"""The public API for custom steps. programs.md has examples."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fanfold.errors import WorkerError
    from fanfold.fold import reduce_outputs
    from fanfold.group import process_group
    from fanfold.mapping import map_part
    from fanfold.parts import Part
    from fanfold.streams import Stream
else:
    HOMES = {
        "errors": ["WorkerError"],
        "fold": ["reduce_outputs"],
        "group": ["process_group"],
        "mapping": ["map_part"],
        "parts": ["Part"],
        "streams": ["Stream"],
    }

    def __getattr__(name):
        """Import a name when it is used: no worker imports modules that it does not need."""
        from importlib import import_module

        for module, names in HOMES.items():
            if name in names:
                return getattr(import_module(f"fanfold.{module}"), name)
        raise AttributeError(f"module 'fanfold' has no attribute {name!r}")


__all__ = ["Part", "Stream", "WorkerError", "map_part", "process_group", "reduce_outputs"]
