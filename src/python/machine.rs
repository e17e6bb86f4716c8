//! What Python asks about the machine.

use pyo3::prelude::*;

/// Adds the functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(malloc_trim, module)?)?;
    module.add_function(wrap_pyfunction!(available_cpus, module)?)
}

/// Give unused heap memory back to the system; return whether the C library can.
#[pyfunction]
fn malloc_trim(py: Python<'_>) -> bool {
    py.detach(crate::sys::malloc::trim)
}

/// Return how many CPUs this process may use.
#[pyfunction]
fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
