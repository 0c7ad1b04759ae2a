//! Where a node runs: on the CPU, or on the device that the session asks for.

use std::ffi::CStr;

use crate::ffi::{Error, KernelInfo};
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
        return Err(error);
    }
    // Such a weight may be one that only a device can run: then both reasons count.
    let kernel = on_cpu().map_err(|other| other.within(&format!("{error}; on the CPU")))?;
    let label = format!("{} node {:?}", name.to_string_lossy(), info.node_name()?);
    info.warn(name, &format!("{label}: {error}; the node runs on the CPU"))?;
    Ok(kernel)
}
