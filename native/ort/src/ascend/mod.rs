//! The run-time hand-off: nodes of the strict form on an Ascend device, by way of the installed CANN.
//!
//! Session config `mcd.device` = `ascend:0` asks for it. Nothing of CANN is linked: its libraries are opened by name when
//! the first node needs them, so that this library loads everywhere. None of this was ever run on a device; it is
//! tested against the stand-in `libmcd_aclnn.so`, which `MCD_ASCEND_LIBRARY` names.
//!
//! - [`library`]: the libraries, and their functions behind safe types that give back what they hold
//! - [`queue`]: a device's stream with its buffers, which all nodes share
//!
//! What a node must look like to run there is the operator's to say.

pub mod library;
pub mod queue;
