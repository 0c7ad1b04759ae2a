//! Everything that lives: objects behind handles, memory, the device.
//!
//! A handle is a number that is given out once and never dereferenced, so an object that was destroyed, or one of another
//! kind, is told from a live one for certain.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::Memory;
use crate::mode::strict;
use crate::plan::Executor;
use crate::status::{Checked, Family, RUNTIME_ERROR, UNINITIALIZE, fail, report};
use crate::stream::{Queue, Stream};
use crate::tensor::Tensor;

/// Lines of a leak report.
const LEAKS_SHOWN: usize = 10;

/// Kinds of objects, as handles carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tensor = 1,
    IntArray = 2,
    Executor = 3,
    Stream = 4,
    Context = 5,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Tensor, Self::IntArray, Self::Executor, Self::Stream, Self::Context];

    fn name(self) -> &'static str {
        match self {
            Self::Tensor => "aclTensor",
            Self::IntArray => "aclIntArray",
            Self::Executor => "aclOpExecutor",
            Self::Stream => "aclrtStream",
            Self::Context => "aclrtContext",
        }
    }
}

/// An object of the library.
pub enum Object {
    Tensor(Arc<Tensor>),
    IntArray(Arc<[i64]>),
    Executor(Executor),
    Stream(Stream),
    Context,
}

impl Object {
    fn kind(&self) -> Kind {
        match self {
            Self::Tensor(_) => Kind::Tensor,
            Self::IntArray(_) => Kind::IntArray,
            Self::Executor(_) => Kind::Executor,
            Self::Stream(_) => Kind::Stream,
            Self::Context => Kind::Context,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Tensor(tensor) => format!("an aclTensor, {} {:?}", tensor.data_type, tensor.dims),
            Self::IntArray(values) => format!("an aclIntArray, {values:?}"),
            Self::Executor(_) => "an aclOpExecutor whose second phase was not called".into(),
            Self::Stream(_) => "an aclrtStream".into(),
            Self::Context => "an aclrtContext".into(),
        }
    }
}

/// "mc", in the bits that no address of a process has.
const TAG: usize = 0x6d63 << 48;
const KIND_SHIFT: u32 = 44;
const NUMBER_SHIFT: u32 = 4;

fn kind_of(handle: usize) -> Option<Kind> {
    let kind = (handle >> KIND_SHIFT) & 0xf;
    let tagged = handle >> 48 == TAG >> 48;
    Kind::ALL.into_iter().find(|&known| tagged && known as usize == kind)
}

/// The one state of the process.
#[derive(Default)]
pub struct State {
    pub initialized: bool,
    /// `aclFinalize` was called.
    pub finalized: bool,
    /// Calls of `aclrtSetDevice` that no `aclrtResetDevice` has undone, and contexts.
    pub device_uses: usize,
    /// Times that the device was closed: what a thread has set before counts no more.
    epoch: usize,
    pub memory: Memory,
    /// What a null stream stands for.
    pub default_stream: Option<usize>,
    /// What a thread uses that has set the device and no context.
    pub default_context: Option<usize>,
    objects: BTreeMap<usize, Object>,
    created: usize,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

thread_local! {
    /// The epoch in which this thread has set the device, plus one; 0 before.
    static DEVICE_SET: Cell<usize> = const { Cell::new(0) };
    /// The context that this thread uses; 0 for the device's own.
    static CONTEXT: Cell<usize> = const { Cell::new(0) };
}

/// Runs `body` with the state.
pub fn with_state<T>(body: impl FnOnce(&mut State) -> T) -> T {
    let mut guard: MutexGuard<'_, Option<State>> = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    body(guard.get_or_insert_default())
}

impl State {
    /// Takes an object in and returns its handle.
    pub fn insert(&mut self, object: Object) -> usize {
        self.created += 1;
        let handle = TAG | ((object.kind() as usize) << KIND_SHIFT) | (self.created << NUMBER_SHIFT);
        self.objects.insert(handle, object);
        handle
    }

    /// Whether a handle is live.
    pub fn is_live(&self, handle: usize) -> bool {
        self.objects.contains_key(&handle)
    }

    /// Why a handle is not one of a live object of a kind; `code` is the status for it.
    fn refuse<T>(&self, what: &str, handle: usize, expected: Kind, code: i32) -> Checked<T> {
        let name = expected.name();
        let reason = match kind_of(handle) {
            Some(kind) if kind == expected => format!("this {name} was destroyed already"),
            Some(kind) => format!("it is an {}, not an {name}", kind.name()),
            None => format!("it is no {name} of this library"),
        };
        fail(code, format!("{what} ({handle:#x}): {reason}"))
    }

    /// Takes an object out.
    pub fn remove(&mut self, what: &str, handle: usize, kind: Kind, code: i32) -> Checked<Object> {
        if kind_of(handle) != Some(kind) || !self.is_live(handle) {
            return self.refuse(what, handle, kind, code);
        }
        Ok(self.objects.remove(&handle).expect("live"))
    }

    /// A tensor.
    pub fn tensor(&self, what: &str, handle: usize) -> Checked<Arc<Tensor>> {
        match self.objects.get(&handle) {
            Some(Object::Tensor(tensor)) => Ok(Arc::clone(tensor)),
            _ => self.refuse(what, handle, Kind::Tensor, Family::Aclnn.invalid()),
        }
    }

    /// A list of integers.
    pub fn int_array(&self, what: &str, handle: usize) -> Checked<Arc<[i64]>> {
        match self.objects.get(&handle) {
            Some(Object::IntArray(values)) => Ok(Arc::clone(values)),
            _ => self.refuse(what, handle, Kind::IntArray, Family::Aclnn.invalid()),
        }
    }

    /// An executor.
    pub fn executor(&mut self, handle: usize, code: i32) -> Checked<&mut Executor> {
        match self.objects.get(&handle) {
            Some(Object::Executor(_)) => match self.objects.get_mut(&handle) {
                Some(Object::Executor(executor)) => Ok(executor),
                _ => unreachable!("looked up above"),
            },
            _ => self.refuse("executor", handle, Kind::Executor, code),
        }
    }

    /// A stream and its handle; null is the device's own.
    pub fn stream(&mut self, handle: usize, family: Family) -> Checked<(usize, &mut Stream)> {
        let handle = if handle == 0 { self.default_stream.unwrap_or(0) } else { handle };
        if !matches!(self.objects.get(&handle), Some(Object::Stream(_))) {
            return self.refuse("stream", handle, Kind::Stream, family.invalid());
        }
        match self.objects.get_mut(&handle) {
            Some(Object::Stream(stream)) => Ok((handle, stream)),
            _ => unreachable!("looked up above"),
        }
    }

    /// Checks that there is a runtime.
    pub fn check_initialized(&self) -> Checked<()> {
        if self.initialized {
            return Ok(());
        }
        let now = if self.finalized { "after aclFinalize" } else { "before aclInit" };
        fail(UNINITIALIZE, format!("called {now}"))
    }

    /// Checks that there is a device.
    pub fn check_device(&self, family: Family) -> Checked<()> {
        let code = if family == Family::Acl { UNINITIALIZE } else { RUNTIME_ERROR };
        if let Err(failure) = self.check_initialized() {
            return fail(code, failure.message);
        }
        if self.device_uses == 0 {
            return fail(code, "no device is set; call aclrtSetDevice first");
        }
        if strict() && DEVICE_SET.get() != self.epoch + 1 {
            return fail(code, "no device is set on this thread; each thread calls aclrtSetDevice for itself");
        }
        Ok(())
    }

    /// This thread uses the device from now on, in the device's own context.
    pub fn set_device(&mut self) -> Checked<()> {
        self.open_device()?;
        CONTEXT.set(0);
        Ok(())
    }

    /// One user of the device more.
    fn open_device(&mut self) -> Checked<()> {
        if self.default_stream.is_none() {
            self.default_stream = Some(Stream::new().map(|stream| self.insert(Object::Stream(stream)))?);
            self.default_context = Some(self.insert(Object::Context));
        }
        self.device_uses += 1;
        DEVICE_SET.set(self.epoch + 1);
        Ok(())
    }

    /// Undoes one `open_device`; the last one closes the device and hands its own stream out, to be closed and settled.
    pub fn reset_device(&mut self) -> Option<(usize, Stream)> {
        self.device_uses -= 1;
        if self.device_uses > 0 {
            return None;
        }
        self.epoch += 1;
        if let Some(context) = self.default_context.take() {
            self.objects.remove(&context);
        }
        let handle = self.default_stream.take()?;
        match self.objects.remove(&handle) {
            Some(Object::Stream(stream)) => Some((handle, stream)),
            _ => None,
        }
    }

    /// A new context, which this thread uses from now on.
    pub fn create_context(&mut self) -> Checked<usize> {
        self.open_device()?;
        let handle = self.insert(Object::Context);
        CONTEXT.set(handle);
        Ok(handle)
    }

    /// This thread uses a context from now on.
    pub fn use_context(&mut self, handle: usize) -> Checked<()> {
        if !matches!(self.objects.get(&handle), Some(Object::Context)) {
            return self.refuse("context", handle, Kind::Context, Family::Acl.invalid());
        }
        DEVICE_SET.set(self.epoch + 1);
        CONTEXT.set(if self.default_context == Some(handle) { 0 } else { handle });
        Ok(())
    }

    /// The context that this thread uses, if it uses one.
    pub fn current_context(&self) -> Option<usize> {
        match CONTEXT.get() {
            0 => self.default_context.filter(|_| DEVICE_SET.get() == self.epoch + 1),
            handle => Some(handle).filter(|handle| self.is_live(*handle)),
        }
    }

    /// All streams, with their queues and what was submitted to them.
    pub fn streams(&self) -> Vec<(usize, Arc<Queue>, u64)> {
        let streams = self.objects.iter().filter_map(|(&handle, object)| match object {
            Object::Stream(stream) => Some((handle, Arc::clone(&stream.queue), stream.submitted)),
            _ => None,
        });
        streams.collect()
    }

    /// Objects and allocations that are the caller's to destroy.
    pub fn live(&self) -> usize {
        self.objects.keys().filter(|handle| !self.is_the_devices(**handle)).count() + self.memory.len()
    }

    /// Whether an object is the device's own.
    fn is_the_devices(&self, handle: usize) -> bool {
        [self.default_stream, self.default_context].contains(&Some(handle))
    }

    /// Reports what was not destroyed.
    pub fn report_leaks(&self, when: &str) {
        self.memory.overflows().for_each(|overflow| report(&overflow));
        let live = self.live();
        if live == 0 {
            return;
        }
        let objects = self.objects.iter().filter(|(handle, _)| !self.is_the_devices(**handle));
        let lines: Vec<String> =
            objects.map(|(_, object)| object.describe()).chain(self.memory.describe()).take(LEAKS_SHOWN).collect();
        let more = if live > lines.len() { format!(" and {} more", live - lines.len()) } else { String::new() };
        report(&format!("leaked {when}: {}{more}", lines.join("; ")));
    }
}

/// Reports, at the end of a process that has not called `aclFinalize`, what was not destroyed.
pub extern "C" fn report_at_exit() {
    // A thread may have been stopped with the lock held.
    if let Ok(guard) = STATE.try_lock()
        && let Some(state) = &*guard
        && state.initialized
    {
        report("aclFinalize was not called");
        state.report_leaks("at exit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PARAM_INVALID;

    #[test]
    fn handles_tell_what_became_of_their_object() {
        let mut state = State::default();
        let array = state.insert(Object::IntArray([1, 2].into()));
        assert_eq!(&*state.int_array("info", array).unwrap(), [1, 2]);
        let message = |result: Checked<Arc<Tensor>>| result.unwrap_err().message;
        assert!(message(state.tensor("x1", array)).contains("an aclIntArray, not an aclTensor"));
        assert!(message(state.tensor("x1", 0x1234)).contains("no aclTensor of this library"));
        state.remove("info", array, Kind::IntArray, PARAM_INVALID).unwrap_or_else(|_| panic!("live"));
        assert!(state.int_array("info", array).unwrap_err().message.contains("destroyed already"));
        assert!(state.remove("info", array, Kind::IntArray, PARAM_INVALID).is_err());
        let again = state.insert(Object::IntArray([3].into()));
        assert_ne!(again, array);
    }
}
