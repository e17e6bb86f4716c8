//! Pickled data on its way between processes.
//!
//! Nothing in the parent but the completer ever looks inside.

/// One pickled object.
#[derive(Debug, Default)]
pub struct Payload {
    /// The pickle itself.
    pub body: Vec<u8>,
}

impl From<Vec<u8>> for Payload {
    fn from(body: Vec<u8>) -> Self {
        Self { body }
    }
}

impl Payload {
    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}
