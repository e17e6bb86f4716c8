"""Taking an app to a process that is no fork of this one.

Celery pickles an app as what its configuration was changed by, and the process imports the modules of its
tasks. That leaves out what was given to ``app.add_defaults``, and the tasks of ``app.register_task``: the
modules give these to an app of their own.
"""

from __future__ import annotations

import importlib
import io
import operator
import pickle
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from celery._state import _get_active_apps

# Where the class of a task is found: its module, and its name there; None if it has no such place.
Place = tuple[str, str] | None


class _Pickler(pickle.Pickler):
    """Pickles modules by name, since ``app.config_from_object`` takes them."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            return importlib.import_module, (obj.__name__,)
        return NotImplemented


def dumps(app: Any) -> bytes:
    """Pickle an app with its configuration.

    :raises Exception: If it can't be pickled: whatever pickling it has raised.
    """
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump((app, _added_defaults(app)))
    return file.getvalue()


def loads(pickled: bytes) -> Any:
    """Return the app."""
    app, added = pickle.loads(pickled)
    for defaults in added:
        app.add_defaults(defaults)
    return app


def _added_defaults(app: Any) -> list[dict[str, Any]]:
    """Return what was given to ``app.add_defaults``, in that order."""
    conf = app.conf.finalize()
    # The last are those of the source of the configuration, which is read again, and of Celery.
    added: list[Mapping[str, Any]] = conf.defaults[:-2]
    return [_settings(defaults) for defaults in reversed(added)]


def _settings(defaults: Mapping[str, Any]) -> dict[str, Any]:
    # Where they came from an object there is more in it than settings.
    return {name: value for name, value in defaults.items() if not name.startswith("_")}


def places_of_tasks(app: Any) -> dict[str, Place]:
    """Return the names of an app's tasks, with the places of their classes."""
    return {name: _place(type(task)) for name, task in app.tasks.items()}


def _place(task_class: type) -> Place:
    module, name = task_class.__module__, task_class.__qualname__
    try:
        found = operator.attrgetter(name)(sys.modules[module])
    except (AttributeError, KeyError):
        return None
    # By the names of classes that are made by decorators one finds something else.
    return (module, name) if found is task_class else None


def _class_at(module: str, name: str) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))


def add_tasks(app: Any, places: Mapping[str, Place]) -> None:
    """Give an app the tasks that it had before it was taken here, and has not got by imports."""
    others = [other for other in _get_active_apps() if other is not app]
    for name, place in places.items():
        if name in app.tasks:
            continue
        for other in others:
            if name in other._tasks:
                app.register_task(other._tasks[name])
                break
        else:
            if place is not None:
                app.register_task(_class_at(*place))
