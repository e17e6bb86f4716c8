//! What a task's function is called in messages.

use pyo3::prelude::*;

use super::link::Handle;

/// What the task's function is called: module and qualified name.
pub fn task_name(py: Python<'_>, handle: &Handle) -> String {
    handle
        .side()
        .callable(py)
        .map_or_else(|| String::from("a task"), |callable| callable_name(callable.bind(py)))
}

/// Module and qualified name, of what a `functools.partial` or a bound method wraps.
pub fn callable_name(callable: &Bound<'_, PyAny>) -> String {
    let mut callable = callable.clone();
    // Partials of partials are flattened by Python, other wrappers may nest; not without end.
    for _ in 0..8 {
        if !callable.get_type().name().is_ok_and(|name| name == "partial") {
            break;
        }
        let Ok(inner) = callable.getattr("func") else { break };
        callable = inner;
    }
    let text =
        |object: &Bound<'_, PyAny>, name: &str| object.getattr(name).ok()?.extract::<String>().ok();
    let named = text(&callable, "__qualname__").map(|name| (text(&callable, "__module__"), name));
    let (module, name) = named.unwrap_or_else(|| {
        let class = callable.get_type();
        let name = text(&class, "__qualname__").unwrap_or_else(|| String::from("object"));
        (text(&class, "__module__"), name)
    });
    match module {
        Some(module) if module != "builtins" => format!("{module}.{name}"),
        _ => name,
    }
}
