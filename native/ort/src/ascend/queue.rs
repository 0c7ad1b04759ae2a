//! A device's one stream, and the buffers that all nodes on it share: nodes run one after the other anyway.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::library::{Arguments, DataType, Executor, IntArray, Memory, Runtime, Stream, Tensor};
use crate::ffi::Error;

/// Times that a stream is asked to come to rest: a failure of its work is told once, and then it is at rest.
const ATTEMPTS: usize = 3;

/// What stays on the device for a node.
pub struct Constants {
    pub k: usize,
    pub n: usize,
    /// Rows of one launch at most.
    pub max_rows: usize,
    pub x2: Arc<Tensor>,
    pub compress_index: Arc<Tensor>,
    /// `None` where it is computed at run time.
    pub bias: Option<Arc<Tensor>>,
    pub deq_scale: Arc<Tensor>,
    pub compress_info: Arc<IntArray>,
}

/// Puts bytes on the device, and describes them.
pub fn upload(
    runtime: &'static Runtime,
    bytes: &[u8],
    dims: &[i64],
    data_type: DataType,
) -> Result<Arc<Tensor>, Error> {
    runtime.upload(bytes)?.tensor(0, dims, data_type)
}

/// Memory that is used again, and grows.
#[derive(Default)]
struct Buffer(Option<Arc<Memory>>);

impl Buffer {
    /// At least `len` bytes; what was in them is lost when they grow.
    fn at_least(&mut self, runtime: &'static Runtime, len: usize) -> Result<&Arc<Memory>, Error> {
        if self.0.as_ref().is_none_or(|memory| memory.len() < len) {
            self.0 = None; // freed before more is asked for
            self.0 = Some(runtime.allocate(len)?);
        }
        Ok(self.0.as_ref().expect("allocated above"))
    }
}

/// What one run at a time uses.
#[derive(Default)]
struct Buffers {
    x1: Buffer,
    bias: Buffer,
    out: Buffer,
    workspace: Buffer,
    /// Work may be on its way that uses them.
    busy: bool,
}

/// A device with its stream.
pub struct Queue {
    runtime: &'static Runtime,
    device: i32,
    // Given back first, which finishes work that still uses the buffers.
    stream: Stream,
    buffers: Mutex<Buffers>,
}

impl Queue {
    /// The queue of a device: the one that other nodes have already, or a new one.
    pub fn of(runtime: &'static Runtime, device: i32) -> Result<Arc<Self>, Error> {
        static QUEUES: Mutex<Vec<Weak<Queue>>> = Mutex::new(Vec::new());

        runtime.set_device(device)?;
        let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|queue| queue.strong_count() > 0);
        let same = |queue: &Arc<Self>| std::ptr::eq(queue.runtime, runtime) && queue.device == device;
        if let Some(queue) = queues.iter().filter_map(Weak::upgrade).find(same) {
            return Ok(queue);
        }
        let queue = Arc::new(Self { runtime, device, stream: runtime.stream()?, buffers: Mutex::default() });
        queues.push(Arc::downgrade(&queue));
        Ok(queue)
    }

    /// Multiplies `m` rows `x1`, and writes the fp16 result to `out`; `bias` is for nodes that have no constant one.
    ///
    /// # Safety
    ///
    /// There is room for m · n elements of two bytes at `out`.
    pub unsafe fn run(
        &self,
        constants: &Constants,
        x1: &[u8],
        bias: &[i32],
        m: usize,
        out: *mut c_void,
    ) -> Result<(), Error> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = &mut *buffers;
        self.runtime.set_device(self.device)?;
        self.settle(buffers)?;
        let row = constants.n * size_of::<u16>();
        let len = m.checked_mul(row).ok_or_else(|| Error::device(format!("{m} rows are too many")))?;
        let rows = buffers.x1.at_least(self.runtime, x1.len())?;
        let result = buffers.out.at_least(self.runtime, len)?;
        rows.write(x1)?;
        let bias = match &constants.bias {
            Some(bias) => Arc::clone(bias),
            None => {
                let bytes: Vec<u8> = bias.iter().flat_map(|value| value.to_ne_bytes()).collect();
                let memory = buffers.bias.at_least(self.runtime, bytes.len())?;
                memory.write(&bytes)?;
                memory.tensor(0, &[constants.n as i64], DataType::Int32)?
            }
        };

        let most = constants.max_rows;
        let mut chunks = Vec::with_capacity(m.div_ceil(most));
        let mut workspace = 0;
        for start in (0..m).step_by(most) {
            let chunk = Chunk::new(constants, rows, &bias, result, start, most.min(m - start))?;
            workspace = workspace.max(chunk.workspace);
            chunks.push(chunk);
        }
        let workspace = match workspace {
            0 => None,
            len => Some(&**buffers.workspace.at_least(self.runtime, len)?),
        };
        buffers.busy = true;
        // SAFETY: the chunks and the buffers, which the lock keeps to this call, outlive the wait below. Where that fails,
        // the chunks are not given back, and `busy` keeps the buffers from being used before the stream is at rest.
        let launch = |chunk: &Chunk| unsafe { chunk.executor.launch(workspace, &self.stream) };
        let launched = chunks.iter().try_for_each(launch);
        let finished = self.stream.synchronize();
        if finished.is_ok() {
            buffers.busy = false;
        } else {
            // What failed is told below. Whether the work is at rest decides over the buffers, now and at the next run.
            let _ = self.settle(buffers);
            if buffers.busy {
                // Work that does not come to rest may still use them: lost rather than given back.
                std::mem::forget(chunks);
            }
        }
        launched.and(finished)?;
        let result = buffers.out.at_least(self.runtime, len)?;
        // SAFETY: the caller's contract.
        unsafe { result.read(out, len) }
    }

    /// Waits until no work uses the buffers any more; failures of work that nobody waits for are not told.
    fn settle(&self, buffers: &mut Buffers) -> Result<(), Error> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            if !buffers.busy {
                return Ok(());
            }
            result = self.stream.synchronize();
            buffers.busy = result.is_err();
        }
        result
    }

    /// Prepares this thread, and the device, for giving back what work may have used.
    pub fn before_release(&self) {
        // Nobody is there to be told of a failure; what cannot be given back is lost.
        let _ = self.runtime.set_device(self.device);
        let _ = self.settle(&mut self.buffers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.before_release();
    }
}

/// One launch: some rows.
struct Chunk {
    executor: Executor,
    workspace: usize,
}

impl Chunk {
    fn new(
        constants: &Constants,
        x1: &Arc<Memory>,
        bias: &Arc<Tensor>,
        out: &Arc<Memory>,
        start: usize,
        rows: usize,
    ) -> Result<Self, Error> {
        let Constants { k, n, .. } = *constants;
        let dims = |columns: usize| [rows as i64, columns as i64];
        let x1 = x1.tensor(start * k, &dims(k), DataType::Int8)?;
        let out = out.tensor(start * n * size_of::<u16>(), &dims(n), DataType::Float16)?;
        let (executor, workspace) = Executor::new(Arguments {
            x1,
            x2: Arc::clone(&constants.x2),
            compress_index: Arc::clone(&constants.compress_index),
            bias: Arc::clone(bias),
            deq_scale: Arc::clone(&constants.deq_scale),
            compress_info: Arc::clone(&constants.compress_info),
            out,
        })?;
        Ok(Self { executor, workspace })
    }
}
