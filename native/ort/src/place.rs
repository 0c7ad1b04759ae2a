//! A node where it runs: on the CPU, or on the device that the session asks for.

use crate::ascend;
use crate::ffi::{Api, Error, KernelContext, KernelInfo};
use crate::kernel::Kernel;
use crate::operator::Form;
use crate::options::{Device, Options};

/// A node.
pub enum Place {
    Cpu(Box<Kernel>),
    Ascend(Box<ascend::Node>),
}

impl Place {
    /// Checks a node, and makes it ready where it is to run.
    pub fn new(api: Api, form: Form, options: Options, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let on_cpu = || Kernel::new(api, form, options, info).map(|kernel| Self::Cpu(Box::new(kernel)));
        let Device::Ascend { id, or_cpu } = options.device else { return on_cpu() };
        let error = match ascend::Node::new(api, form, options, info, id) {
            Ok(node) => return Ok(Self::Ascend(Box::new(node))),
            Err(error) if or_cpu => error,
            Err(error) => return Err(error),
        };
        // Such a weight may be one that only a device can run: then both reasons count.
        let kernel = on_cpu().map_err(|other| other.within(&error.to_string()))?;
        info.warn(&format!("{error}; the node runs on the CPU"))?;
        Ok(kernel)
    }

    /// The onnxruntime that the node belongs to.
    pub fn api(&self) -> Api {
        match self {
            Self::Cpu(kernel) => kernel.api(),
            Self::Ascend(node) => node.api(),
        }
    }

    /// One call.
    pub fn compute(&self, context: &KernelContext<'_>) -> Result<(), Error> {
        match self {
            Self::Cpu(kernel) => kernel.compute(context),
            Self::Ascend(node) => node.compute(context),
        }
    }
}
