//! Zygotes and workers: their native part.

mod worker;

pub(super) use worker::register;
