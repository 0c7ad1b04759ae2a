//! Memory: allocation, copies, filling.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::pointers::{check_place, not_null};
use crate::guard::guard;
use crate::memory::{Access, Location};
use crate::state::{State, with_state};
use crate::status::{Checked, Family, INVALID_PARAM, fail};

/// Device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMalloc(address: *mut *mut c_void, size: usize, policy: c_int) -> c_int {
    guard(Family::Acl, "aclrtMalloc", || {
        if !(0..=2).contains(&policy) {
            return fail(INVALID_PARAM, format!("policy {policy} is no aclrtMemMallocPolicy of 0 to 2"));
        }
        // SAFETY: the module's contract.
        unsafe { allocate(address, size, Location::Device) }
    })
}

/// Host memory that a device reaches.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocHost(address: *mut *mut c_void, size: usize) -> c_int {
    // SAFETY: the module's contract.
    guard(Family::Acl, "aclrtMallocHost", || unsafe { allocate(address, size, Location::Host) })
}

/// # Safety
///
/// `address` is null or a place for a pointer.
unsafe fn allocate(address: *mut *mut c_void, size: usize, location: Location) -> Checked<()> {
    check_place("the place for the address", address)?;
    let allocated = with_state(|state| {
        state.check_device(Family::Acl)?;
        state.memory.allocate(size, location)
    })?;
    // SAFETY: the caller's contract.
    unsafe { address.write(ptr::with_exposed_provenance_mut(allocated)) };
    Ok(())
}

/// Gives device memory back.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtFree(address: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtFree", || release(address, Location::Device))
}

/// Gives host memory back.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtFreeHost(address: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtFreeHost", || release(address, Location::Host))
}

fn release(address: *mut c_void, location: Location) -> Checked<()> {
    let address = not_null("the address", address, INVALID_PARAM)?;
    with_state(|state| {
        state.check_device(Family::Acl)?;
        state.memory.free(address, location)
    })
}

/// Fills memory with a byte, and returns when it is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemset(address: *mut c_void, room: usize, value: i32, count: usize) -> c_int {
    guard(Family::Acl, "aclrtMemset", || {
        with_state(|state| {
            check_fill(state, address, room, count, None)?;
            // SAFETY: as for a copy's destination.
            unsafe { ptr::write_bytes(address.cast::<u8>(), value as u8, count) };
            Ok(())
        })
    })
}

/// Fills memory in its turn on a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemsetAsync(
    address: *mut c_void,
    room: usize,
    value: i32,
    count: usize,
    stream: *mut c_void,
) -> c_int {
    guard(Family::Acl, "aclrtMemsetAsync", || {
        with_state(|state| {
            state.check_device(Family::Acl)?;
            let (handle, _) = state.stream(stream.addr(), Family::Acl)?;
            check_fill(state, address, room, count, Some(handle))?;
            let to = address.expose_provenance();
            let task = Box::new(move || {
                // SAFETY: as for a queued copy's destination.
                unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(to), value as u8, count) };
                Ok(())
            });
            let ticket = state.stream(handle, Family::Acl)?.1.submit(task);
            state.memory.note_use(handle, ticket, to, count, Access::Write);
            Ok(())
        })
    })
}

/// Checks memory to be filled; `stream` is the one that it is queued on.
fn check_fill(state: &State, address: *mut c_void, room: usize, count: usize, stream: Option<usize>) -> Checked<()> {
    state.check_device(Family::Acl)?;
    let address = not_null("devPtr", address, INVALID_PARAM)?;
    if count == 0 {
        return fail(INVALID_PARAM, "count is 0");
    }
    if count > room {
        return fail(INVALID_PARAM, format!("count is {count}, and maxCount is {room}"));
    }
    let memory = &state.memory;
    memory.check_end("devPtr", address)?;
    memory.check_inside("devPtr", address, count, memory.location(address).unwrap_or(Location::Device))?;
    memory.check_settled("devPtr", address, count, Access::Write, stream)
}

/// Copies, and returns when it is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpy(
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
) -> c_int {
    guard(Family::Acl, "aclrtMemcpy", || {
        with_state(|state| {
            check_copy(state, dst, dst_max, src, count, kind, None)?;
            // SAFETY: library memory was checked to hold the bytes and to be used by no queued work, and cannot be freed
            // while the state is locked; other memory is the caller's by contract.
            unsafe { ptr::copy(src.cast::<u8>(), dst.cast::<u8>(), count) };
            Ok(())
        })
    })
}

/// Copies in its turn on a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpyAsync(
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
    stream: *mut c_void,
) -> c_int {
    guard(Family::Acl, "aclrtMemcpyAsync", || {
        with_state(|state| {
            state.check_device(Family::Acl)?;
            let (handle, _) = state.stream(stream.addr(), Family::Acl)?;
            check_copy(state, dst, dst_max, src, count, kind, Some(handle))?;
            let (from, to) = (src.expose_provenance(), dst.expose_provenance());
            let task = Box::new(move || {
                let (src, dst) =
                    (ptr::with_exposed_provenance::<u8>(from), ptr::with_exposed_provenance_mut::<u8>(to));
                // SAFETY: library memory was checked when the copy was queued and is kept until it is done; other memory
                // is the caller's by contract.
                unsafe { ptr::copy(src, dst, count) };
                Ok(())
            });
            let ticket = state.stream(handle, Family::Acl)?.1.submit(task);
            state.memory.note_use(handle, ticket, from, count, Access::Read);
            state.memory.note_use(handle, ticket, to, count, Access::Write);
            Ok(())
        })
    })
}

/// Checks a copy; `stream` is the one that it is queued on.
fn check_copy(
    state: &State,
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
    stream: Option<usize>,
) -> Checked<()> {
    state.check_device(Family::Acl)?;
    let dst = not_null("dst", dst, INVALID_PARAM)?;
    let src = not_null("src", src.cast_mut(), INVALID_PARAM)?;
    if count == 0 {
        return fail(INVALID_PARAM, "count is 0");
    }
    if count > dst_max {
        return fail(INVALID_PARAM, format!("count is {count}, and destMax is {dst_max}"));
    }
    let (from, to) = match kind {
        0 => (Some(Location::Host), Some(Location::Host)),
        1 => (Some(Location::Host), Some(Location::Device)),
        2 => (Some(Location::Device), Some(Location::Host)),
        3 => (Some(Location::Device), Some(Location::Device)),
        4 => (None, None),
        _ => return fail(INVALID_PARAM, format!("kind {kind} is no aclrtMemcpyKind of 0 to 4")),
    };
    for (what, address, wanted, access) in [("src", src, from, Access::Read), ("dst", dst, to, Access::Write)] {
        let memory = &state.memory;
        memory.check_end(what, address)?;
        match (wanted, memory.location(address)) {
            // Any memory of the process is host memory, unless it is the device's.
            (None | Some(Location::Host), None) => continue,
            (Some(Location::Device), _) => memory.check_inside(what, address, count, Location::Device)?,
            (Some(Location::Host), Some(_)) => memory.check_inside(what, address, count, Location::Host)?,
            (None, Some(location)) => memory.check_inside(what, address, count, location)?,
        }
        memory.check_settled(what, address, count, access, stream)?;
    }
    Ok(())
}
