//! Operators as they were registered: kernels of nodes, runs, inference.

use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::ptr;

use ort_sys::{OrtApiBase, OrtCustomOp, OrtSessionOptions, OrtStatusPtr};

use super::inference::Inference;
use super::kernel_context::Run;
use super::lent::lent;
use super::node::{Node, Tensor};
use super::registration::registered;
use super::status::{message, outcome};
use super::table::{Version, base, table};

/// An operator as it was registered.
#[derive(Debug, Clone, Copy)]
pub struct Operator(*const OrtCustomOp);

// SAFETY: registered operators live for good (the library leaks them, since sessions keep pointers to them), are only read,
// and do not belong to a thread.
unsafe impl Send for Operator {}
// SAFETY: as above.
unsafe impl Sync for Operator {}

/// The entry point of a library of operators.
pub type RegisterCustomOps = unsafe extern "system" fn(*mut OrtSessionOptions, *const OrtApiBase) -> OrtStatusPtr;

/// The operators that a library registers with an onnxruntime of this version.
///
/// # Safety
/// The library asks nothing of its caller but what onnxruntime promises, and its operators live for good.
pub unsafe fn register(library: RegisterCustomOps, version: Version) -> Vec<Operator> {
    // SAFETY: the base is live for the call, and the table that it leads to for good; the options are only handed to
    // functions of the table, which do not look at them. The status is the table's.
    let text = unsafe { message(library(ptr::null_mut(), &base(version))) };
    assert_eq!(text, None);
    registered().into_iter().map(Operator).collect()
}

/// A kernel, released when dropped.
#[derive(Debug)]
pub struct Kernel(Operator, *mut c_void);

impl Operator {
    fn table(&self) -> &OrtCustomOp {
        // SAFETY: registered operators live for good.
        unsafe { &*self.0 }
    }

    /// Its name.
    pub fn name(&self) -> &CStr {
        let name = self.table().GetName.expect("there is one");
        // SAFETY: the operator gets itself; names live for good.
        unsafe { CStr::from_ptr(name(self.0)) }
    }

    /// A kernel of a node.
    pub fn create(self, node: &Node) -> Result<Kernel, String> {
        let mut kernel = ptr::null_mut();
        let create = self.table().CreateKernelV2.expect("there is one");
        // SAFETY: the operator gets itself, a node that is live for the call, and a place for the kernel.
        let created = unsafe { outcome(create(self.0, table(), ptr::from_ref(node).cast(), &mut kernel)) };
        assert_eq!(lent(), 0, "an object was not released");
        created.map(|()| Kernel(self, kernel))
    }

    /// The type and shape that are inferred for a node's output, if any; dimensions below zero are named.
    pub fn infer(self, node: &Node) -> Option<(i32, Vec<i64>)> {
        let infer = self.table().InferOutputShapeFn?;
        let context = Inference {
            node,
            inputs: RefCell::default(),
            output: RefCell::default(),
            attributes: RefCell::default(),
        };
        // SAFETY: the operator gets itself and a context that is live for the call.
        let inferred = unsafe { outcome(infer(self.0, ptr::from_ref(&context).cast_mut().cast())) };
        inferred.expect("what cannot be inferred is left alone");
        assert_eq!(lent(), 0, "an object was not released");
        context.output.into_inner().map(|info| (info.element, info.dims))
    }
}

impl Kernel {
    /// The output of one run.
    pub fn run(&self, node: &Node) -> Result<Tensor, String> {
        let mut context = Run { node, output: None };
        let compute = self.0.table().KernelComputeV2.expect("there is one");
        // SAFETY: the kernel is live, and so is the context, which nothing else uses during the call.
        let done = unsafe { outcome(compute(self.1, ptr::from_mut(&mut context).cast())) };
        assert_eq!(lent(), 0, "an object was not released");
        done?;
        Ok(*context.output.expect("a run without an error has an output"))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let destroy = self.0.table().KernelDestroy.expect("there is one");
        // SAFETY: the kernel is live, and this is its last use.
        unsafe { destroy(self.1) };
    }
}
