//! Where the symbols of a decoded weight are.

use crate::aligned::{Aligned, LINE};
use crate::error::Error;
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};

/// Bytes for a decoded weight that the caller provides, such as a file that processes share.
pub trait Room: Debug + Send + Sync {
    /// The bytes; the first of them is on a cache line.
    fn bytes(&self) -> &[u8];

    /// The bytes while they are written: zeros at first, and as many as were asked for.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// All are written. From here on they are only read, wherever they are then.
    fn settle(&mut self);
}

/// The symbols of a decoded weight.
#[derive(Debug)]
pub(super) enum DecodedBytes {
    Own(Aligned<u8>),
    Elsewhere(Box<dyn Room>),
}

impl Default for DecodedBytes {
    fn default() -> Self {
        Self::Own(Aligned::default())
    }
}

impl DecodedBytes {
    /// `len` zeros: where `room` gives room for them, else in memory of their own.
    pub(super) fn new(len: usize, room: &dyn Fn(usize) -> Option<Box<dyn Room>>) -> Result<Self, Error> {
        let given = room(len);
        Ok(match given.filter(|room| room.bytes().len() == len && room.bytes().as_ptr().align_offset(LINE) == 0) {
            Some(room) => Self::Elsewhere(room),
            None => Self::Own(Aligned::zeroed(len, "a decoded weight")?),
        })
    }

    /// All are written.
    pub(super) fn settle(&mut self) {
        if let Self::Elsewhere(room) = self {
            room.settle();
        }
    }
}

impl Deref for DecodedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Elsewhere(room) => room.bytes(),
        }
    }
}

impl DerefMut for DecodedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Elsewhere(room) => room.bytes_mut(),
        }
    }
}
