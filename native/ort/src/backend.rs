//! Where a node runs: on the CPU, or on the device that the session asks for.

use crate::ascend;
use crate::ffi::{Api, Error, KernelInfo};
use crate::operator::Kernel;
use crate::operators::matmul_compress_dequant::bind::Bound;
use crate::operators::matmul_compress_dequant::spec::{Form, NAME};
use crate::options::{Device, Options};

/// Checks a node, and makes it ready where it is to run.
pub fn bind(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Box<dyn Kernel>, Error> {
    let on_cpu = || Bound::new(api, form, options, info).map(|node| Box::new(node) as Box<dyn Kernel>);
    let Device::Ascend { id, or_cpu } = options.device else { return on_cpu() };
    let error = match ascend::Node::new(api, form, options, info, id) {
        Ok(node) => return Ok(Box::new(node)),
        Err(error) if or_cpu => error.within(&format!("on ascend:{id}")),
        Err(error) => return Err(error.within(&format!("on ascend:{id}"))),
    };
    // Such a weight may be one that only a device can run: then both reasons count.
    let kernel = on_cpu().map_err(|other| other.within(&format!("{error}; on the CPU")))?;
    let label = format!("{} node {:?}", NAME.to_string_lossy(), info.node_name()?);
    info.warn(NAME, &format!("{label}: {error}; the node runs on the CPU"))?;
    Ok(kernel)
}
