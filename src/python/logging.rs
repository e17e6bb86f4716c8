//! The core's log lines, on their way to Python's loggers.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Has what the core says logged by Python. For the parent: workers say nothing, and start sooner
/// without the module that this imports.
pub(super) fn install_logger(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: PyOnceLock<()> = PyOnceLock::new();
    INSTALLED.get_or_try_init(py, || {
        // Records are few, and what the application does to its loggers must take effect at once.
        let logger = pyo3_log::Logger::new(py, pyo3_log::Caching::Nothing)?;
        // Another extension in the same process has its own copy of this crate, so this can't be taken.
        let _ = logger.filter(log::LevelFilter::Debug).install();
        PyResult::Ok(())
    })?;
    Ok(())
}
