//! Zygotes and workers: their native part.

mod encoding;
mod worker;
mod zygote;

use pyo3::prelude::*;

use crate::wire::protocol::{soft_timeout_signal, stack_signal};

use worker::Worker;
use zygote::ParentWatch;

/// Adds the functions and classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Worker>()?;
    module.add_class::<ParentWatch>()?;
    module.add_function(wrap_pyfunction!(zygote::run_zygote, module)?)?;
    module.add_function(wrap_pyfunction!(zygote::kill_children, module)?)?;
    module.add("STACK_SIGNAL", stack_signal())?;
    module.add("SOFT_TIMEOUT_SIGNAL", soft_timeout_signal())
}
