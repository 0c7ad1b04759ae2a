//! Allocations, and which queued work uses them.
//!
//! Work on a stream uses memory from the moment it is queued until the caller has waited for it. Until then the memory
//! cannot be freed, nor be touched in a way that the work would see, or whose result would depend on its progress. That
//! reports a missing synchronisation at every run, not only when the race is lost, and makes the accesses sound.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::overflow;
use crate::status::{BAD_ALLOC, Checked, INVALID_PARAM, fail};

/// A cache line; the device asks for 32.
const ALIGN: usize = 64;
/// Freed ranges that are remembered, for messages.
const REMEMBERED: usize = 256;

/// Where memory pretends to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// `aclrtMalloc`.
    Device,
    /// `aclrtMallocHost`.
    Host,
}

impl Location {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device memory",
            Self::Host => "host memory of aclrtMallocHost",
        }
    }

    fn release(self) -> &'static str {
        match self {
            Self::Device => "aclrtFree",
            Self::Host => "aclrtFreeHost",
        }
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Queued work and the bytes that it uses.
#[derive(Debug)]
struct Use {
    stream: usize,
    ticket: u64,
    range: Range<usize>,
    access: Access,
}

#[derive(Debug)]
struct Allocation {
    size: usize,
    layout: Layout,
    location: Location,
    uses: Vec<Use>,
}

/// All memory of the library.
#[derive(Debug, Default)]
pub struct Memory {
    live: BTreeMap<usize, Allocation>,
    freed: VecDeque<(Range<usize>, Location)>,
}

impl Memory {
    /// New memory, zeroed.
    pub fn allocate(&mut self, size: usize, location: Location) -> Checked<usize> {
        if size == 0 {
            return fail(INVALID_PARAM, "size is 0");
        }
        // As the device does: whole units of 32 bytes, and one more.
        let padded = size.checked_next_multiple_of(32).and_then(|size| size.checked_add(32));
        let guarded = if location == Location::Host { overflow::guard_size(size) } else { 0 };
        let padded = padded.and_then(|padded| padded.checked_add(guarded));
        let Some(layout) = padded.and_then(|padded| Layout::from_size_align(padded, ALIGN).ok()) else {
            return fail(BAD_ALLOC, format!("there are no {size} bytes of {}", location.name()));
        };
        // SAFETY: the layout is not empty.
        let address = unsafe { alloc_zeroed(layout) }.expose_provenance();
        if address == 0 {
            return fail(BAD_ALLOC, format!("there are no {size} bytes of {}", location.name()));
        }
        if location == Location::Host {
            let guard = std::ptr::with_exposed_provenance_mut::<u8>(address + size);
            // SAFETY: the bytes behind the buffer, up to the end of its fresh allocation.
            overflow::fill(unsafe { std::slice::from_raw_parts_mut(guard, layout.size() - size) });
        }
        let end = address + layout.size();
        self.freed.retain(|(range, _)| range.end <= address || range.start >= end);
        self.live.insert(address, Allocation { size, layout, location, uses: Vec::new() });
        Ok(address)
    }

    /// Gives memory back.
    pub fn free(&mut self, address: usize, location: Location) -> Checked<()> {
        let Some(allocation) = self.live.get(&address) else {
            return fail(INVALID_PARAM, self.why_not_live(address));
        };
        if allocation.location != location {
            let (name, right) = (allocation.location.name(), allocation.location.release());
            return fail(INVALID_PARAM, format!("{address:#x} is {name}, which {right} frees"));
        }
        if !allocation.uses.is_empty() {
            return fail(
                INVALID_PARAM,
                format!("{address:#x} is in use by work queued on a stream; synchronise the stream first"),
            );
        }
        let overflow = self.check_end(&format!("{address:#x}"), address);
        let allocation = self.live.remove(&address).expect("found above");
        self.freed.push_back((address..address + allocation.layout.size(), location));
        if self.freed.len() > REMEMBERED {
            self.freed.pop_front();
        }
        // SAFETY: the address came from `alloc_zeroed` with this layout, left the map once, and nothing uses it.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), allocation.layout) };
        overflow
    }

    /// Checks that nothing was written past the end of the host buffer that an address lies in.
    pub fn check_end(&self, what: &str, address: usize) -> Checked<()> {
        let Some((base, allocation)) = self.around(address).filter(|(_, found)| found.location == Location::Host)
        else {
            return Ok(());
        };
        let guard = std::ptr::with_exposed_provenance::<u8>(base + allocation.size);
        // SAFETY: the rest of a live allocation, which was initialised; a program that writes it has a fault of its own.
        let guard = unsafe { std::slice::from_raw_parts(guard, allocation.layout.size() - allocation.size) };
        match overflow::written(guard) {
            0 => Ok(()),
            bytes => fail(
                INVALID_PARAM,
                format!(
                    "{what}: the program has written {bytes} bytes past the end of the {} that aclrtMallocHost gave it at \
                     {base:#x}; ask for as many bytes as are read into it",
                    allocation.size
                ),
            ),
        }
    }

    /// What was written past the ends of live host buffers.
    pub fn overflows(&self) -> impl Iterator<Item = String> + '_ {
        self.live.keys().filter_map(|&base| self.check_end("host memory", base).err().map(|failure| failure.message))
    }

    /// The allocation that an address lies in.
    fn around(&self, address: usize) -> Option<(usize, &Allocation)> {
        let (&base, allocation) = self.live.range(..=address).next_back()?;
        (address < base + allocation.layout.size()).then_some((base, allocation))
    }

    /// Where an address lies; None for memory that is not the library's.
    pub fn location(&self, address: usize) -> Option<Location> {
        self.around(address).map(|(_, allocation)| allocation.location)
    }

    /// Checks that bytes lie in one allocation of a place.
    pub fn check_inside(&self, what: &str, address: usize, len: usize, location: Location) -> Checked<()> {
        match self.around(address) {
            Some((_, allocation)) if allocation.location != location => fail(
                INVALID_PARAM,
                format!("{what} ({address:#x}) is {}, not {}", allocation.location.name(), location.name()),
            ),
            Some((base, allocation)) => {
                let room = (base + allocation.size).saturating_sub(address);
                if len <= room {
                    return Ok(());
                }
                fail(
                    INVALID_PARAM,
                    format!("{what} has {len} bytes from {address:#x} on, where the allocation has {room} left"),
                )
            }
            None => fail(
                INVALID_PARAM,
                format!("{what}: {}, so it is not {}", self.why_not_live(address), location.name()),
            ),
        }
    }

    /// Checks that no queued work is in the way of an access; work of `stream` comes before it anyway.
    pub fn check_settled(
        &self,
        what: &str,
        address: usize,
        len: usize,
        access: Access,
        stream: Option<usize>,
    ) -> Checked<()> {
        let Some((_, allocation)) = self.around(address) else { return Ok(()) };
        let range = address..address.saturating_add(len);
        let conflict = allocation.uses.iter().find(|other| {
            (access == Access::Write || other.access == Access::Write)
                && Some(other.stream) != stream
                && other.range.start < range.end
                && range.start < other.range.end
        });
        match conflict {
            None => Ok(()),
            Some(other) => {
                let doing = if other.access == Access::Write { "writes" } else { "reads" };
                fail(
                    INVALID_PARAM,
                    format!(
                        "{what} ({address:#x}) is memory that work queued on a stream {doing}; synchronise it first"
                    ),
                )
            }
        }
    }

    /// Notes that work number `ticket` of a stream uses bytes.
    pub fn note_use(&mut self, stream: usize, ticket: u64, address: usize, len: usize, access: Access) {
        let range = address..address.saturating_add(len);
        let Some(base) = self.around(address).map(|(base, _)| base) else { return };
        let uses = &mut self.live.get_mut(&base).expect("found above").uses;
        match uses.iter_mut().find(|known| known.stream == stream && known.range == range && known.access == access) {
            Some(known) => known.ticket = ticket,
            None => uses.push(Use { stream, ticket, range, access }),
        }
    }

    /// The caller has waited for a stream's work up to number `ticket`.
    pub fn settle(&mut self, stream: usize, ticket: u64) {
        for allocation in self.live.values_mut() {
            allocation.uses.retain(|known| known.stream != stream || known.ticket > ticket);
        }
    }

    /// Live allocations.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// A line for each live allocation.
    pub fn describe(&self) -> impl Iterator<Item = String> + '_ {
        self.live.values().map(|allocation| format!("{} bytes of {}", allocation.size, allocation.location.name()))
    }

    fn why_not_live(&self, address: usize) -> String {
        match self.freed.iter().rev().find(|(range, _)| range.contains(&address)) {
            Some((_, location)) => format!("{address:#x} was given to {} already", location.release()),
            None => match self.around(address) {
                Some((base, allocation)) => {
                    format!("{address:#x} lies {} bytes inside of {}", address - base, allocation.location.name())
                }
                None => format!("{address:#x} was never allocated here"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_freed_once_and_by_its_own_function() {
        let mut memory = Memory::default();
        let address = memory.allocate(100, Location::Device).unwrap();
        assert_eq!(address % 32, 0);
        assert!(memory.free(address, Location::Host).unwrap_err().message.contains("aclrtFree frees"));
        assert!(memory.free(address + 8, Location::Device).unwrap_err().message.contains("8 bytes inside"));
        memory.free(address, Location::Device).unwrap();
        assert!(memory.free(address, Location::Device).unwrap_err().message.contains("already"));
        assert!(memory.free(8, Location::Device).unwrap_err().message.contains("never allocated"));
        assert_eq!(memory.len(), 0);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let mut memory = Memory::default();
        assert_eq!(memory.allocate(0, Location::Device).unwrap_err().code, INVALID_PARAM);
        for size in [usize::MAX, usize::MAX - 32, isize::MAX as usize] {
            assert_eq!(memory.allocate(size, Location::Device).unwrap_err().code, BAD_ALLOC);
        }
    }

    #[test]
    fn ranges_end_where_the_caller_asked() {
        let mut memory = Memory::default();
        let address = memory.allocate(100, Location::Device).unwrap();
        memory.check_inside("dst", address + 60, 40, Location::Device).unwrap();
        let failure = memory.check_inside("dst", address + 60, 41, Location::Device).unwrap_err();
        assert!(failure.message.contains("has 40 left"), "{}", failure.message);
        assert!(memory.check_inside("dst", address, 1, Location::Host).is_err());
        assert!(memory.check_inside("dst", address + 4096, 1, Location::Device).is_err());
        memory.free(address, Location::Device).unwrap();
    }

    #[test]
    fn a_host_buffer_that_was_overrun_says_so() {
        let mut memory = Memory::default();
        let address = memory.allocate(100, Location::Host).unwrap();
        memory.check_end("src", address).unwrap();
        // SAFETY: the guard is as long as this.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address + 199).write(1) };
        let message = memory.check_end("src", address + 5).unwrap_err().message;
        assert!(message.contains("100 bytes past the end of the 100"), "{message}");
        assert_eq!(memory.overflows().count(), 1);
        assert!(memory.free(address, Location::Host).unwrap_err().message.contains("past the end"));
        assert_eq!(memory.len(), 0, "it is free all the same");
    }

    #[test]
    fn uses_last_until_they_are_waited_for() {
        let mut memory = Memory::default();
        let address = memory.allocate(64, Location::Device).unwrap();
        memory.note_use(1, 5, address, 32, Access::Write);
        memory.note_use(1, 6, address + 32, 32, Access::Read);
        let check = |memory: &Memory, at, access, stream| memory.check_settled("x", at, 16, access, stream).is_ok();
        assert!(!check(&memory, address, Access::Read, None));
        assert!(!check(&memory, address, Access::Read, Some(2)));
        assert!(check(&memory, address, Access::Write, Some(1)));
        assert!(check(&memory, address + 32, Access::Read, None));
        assert!(!check(&memory, address + 32, Access::Write, None));
        assert!(memory.free(address, Location::Device).is_err());
        memory.settle(1, 5);
        assert!(check(&memory, address, Access::Write, None));
        assert!(!check(&memory, address + 32, Access::Write, None));
        memory.settle(1, 6);
        memory.free(address, Location::Device).unwrap();
    }
}
