//! Where a node runs: on the CPU, or on the device that the session asks for.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::ffi::{Error, KernelContext, KernelInfo};
use crate::operator::Kernel;
use crate::options::{Device, Options};

/// A node that is ready to run, or why it cannot.
type Ready = Result<Box<dyn Kernel>, Error>;

/// Makes a node of the operator `name` ready where the session wants it to run; `on_ascend` takes the number of the device.
pub fn bind(
    name: &CStr,
    options: Options,
    info: &KernelInfo<'_>,
    on_cpu: impl FnOnce() -> Ready,
    on_ascend: impl FnOnce(i32) -> Ready,
) -> Ready {
    let Device::Ascend { id, or_cpu } = options.device else { return on_cpu() };
    let error = match on_ascend(id) {
        Ok(node) => return Ok(node),
        Err(error) => error.within(&format!("on ascend:{id}")),
    };
    if !or_cpu {
        let advice = format!("Set mcd.device to \"ascend:{id},cpu\" to run on the CPU what cannot run there");
        return Err(error.advising(&advice));
    }
    // Such a weight may be one that only a device can run: then both reasons count.
    let kernel = on_cpu().map_err(|other| other.within(&format!("{error}; on the CPU")))?;
    let (session, first) = session_of(info)?;
    if first {
        let label = format!("{} node {:?}", name.to_string_lossy(), info.node_name()?);
        let others = "the node runs on the CPU, and so does any other of this session that cannot run there";
        info.warn(name, &format!("{label}: {error}; {others}"))?;
    }
    Ok(Box::new(OnCpu { kernel, _session: session }))
}

/// A node that runs on the CPU though its session asks for a device.
struct OnCpu {
    kernel: Box<dyn Kernel>,
    /// Lives as long as a node of the session that was warned of.
    _session: Arc<()>,
}

impl Kernel for OnCpu {
    fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        self.kernel.compute(context)
    }
}

/// What the session of a node is known by, and whether this is its first node that asks. Sessions have a logger each.
fn session_of(info: &KernelInfo<'_>) -> Result<(Arc<()>, bool), Error> {
    static SESSIONS: Mutex<Vec<(usize, Weak<()>)>> = Mutex::new(Vec::new());

    let logger = info.logger()?;
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    // A session that is gone may have left its logger's address to another.
    sessions.retain(|(_, session)| session.strong_count() > 0);
    let known = sessions.iter().find(|(known, _)| *known == logger).and_then(|(_, session)| session.upgrade());
    Ok(known.map_or_else(
        || {
            let session = Arc::new(());
            sessions.push((logger, Arc::downgrade(&session)));
            (session, true)
        },
        |session| (session, false),
    ))
}
