//! Memory of large pages for decoded weights: they are read from one end to the other, and with pages of 4 KiB the processor
//! begins anew at each of them to fetch ahead.
//!
//! A weight that has whole large pages (2 MiB) gets them when it is written. Smaller ones lie beside each other, for the system
//! maps one below the other, and it makes large pages of them while the process runs (khugepaged). No page is more than weights.

use mcd_core::Room;

/// Weights of fewer bytes stay where the allocator has small things.
const LARGE: usize = 64 << 10;

/// Room for the `len` bytes of a decoded weight, in large pages as far as the system has them; none for few bytes, or on a system
/// that is not asked for them.
pub fn room(len: usize) -> Option<Box<dyn Room>> {
    (len >= LARGE).then(|| system::room(len)).flatten()
}

#[cfg(target_os = "linux")]
mod system {
    use mcd_core::Room;
    use memmap2::{Advice, MmapMut};

    pub fn room(len: usize) -> Option<Box<dyn Room>> {
        let bytes = MmapMut::map_anon(len).ok()?;
        // Where the system has no large pages, these are small ones.
        _ = bytes.advise(Advice::HugePage);
        Some(Box::new(Large(bytes)))
    }

    #[derive(Debug)]
    struct Large(MmapMut);

    impl Room for Large {
        fn bytes(&self) -> &[u8] {
            &self.0
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }

        fn settle(&mut self) {}
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use mcd_core::Room;

    pub fn room(_: usize) -> Option<Box<dyn Room>> {
        None
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn weights_get_zeros_that_can_be_written() {
        let len = (4 << 20) + 5;
        let mut room = room(len).unwrap();
        assert!(room.bytes().len() == len && room.bytes().iter().all(|&byte| byte == 0));
        room.bytes_mut().fill(7);
        room.settle();
        assert!(room.bytes().iter().all(|&byte| byte == 7));
    }

    #[test]
    fn few_bytes_and_what_cannot_be_had_get_none() {
        assert!(room(LARGE - 1).is_none());
        assert!(room(usize::MAX / 2).is_none());
    }
}
