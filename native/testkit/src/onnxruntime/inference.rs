//! Inference of types and shapes.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use ort_sys::{
    ONNXTensorElementDataType, OrtOpAttr, OrtOpAttrType, OrtShapeInferContext, OrtStatusPtr,
    OrtTensorTypeAndShapeInfo,
};

use super::lent::{Info, at, info, lend, slice};
use super::node::Node;
use super::status::{done, fail};

/// A node whose output is asked about.
pub(super) struct Inference<'a> {
    pub(super) node: &'a Node,
    #[expect(clippy::vec_box, reason = "the operator keeps their addresses while the list grows")]
    pub(super) inputs: RefCell<Vec<Box<Info>>>,
    pub(super) output: RefCell<Option<Info>>,
    #[expect(clippy::vec_box, reason = "as above")]
    pub(super) attributes: RefCell<Vec<Box<Attribute>>>,
}

pub(super) unsafe extern "system" fn infer_input(
    context: *const OrtShapeInferContext,
    index: usize,
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: the context is live and keeps the info, and there is a place for the answer.
    unsafe {
        let context = at::<Inference<'_>, _>(context);
        match context.node.inputs.get(index) {
            None => return fail("there is no such input"),
            Some(None) => *out = ptr::null_mut(),
            Some(Some(input)) => {
                let mut inputs = context.inputs.borrow_mut();
                inputs.push(info(&input.tensor));
                *out = ptr::from_mut(&mut **inputs.last_mut().expect("it was pushed")).cast();
            }
        }
    }
    done()
}

/// An attribute that is read.
pub(super) enum Attribute {
    Number(i64),
    List(Vec<i64>),
}

pub(super) unsafe extern "system" fn infer_attribute(
    context: *const OrtShapeInferContext,
    name: *const c_char,
    out: *mut *const OrtOpAttr,
) -> OrtStatusPtr {
    // SAFETY: context and name are live, and there is a place for the answer.
    unsafe {
        let (context, name) = (at::<Inference<'_>, _>(context), CStr::from_ptr(name));
        let list = context.node.list(name).map(|list| Attribute::List(list.clone()));
        let Some(found) = list.or_else(|| context.node.number(name).map(Attribute::Number)) else {
            return fail("there is no such attribute");
        };
        let mut attributes = context.attributes.borrow_mut();
        attributes.push(Box::new(found));
        *out = ptr::from_ref(&**attributes.last().expect("it was pushed")).cast();
    }
    done()
}

pub(super) unsafe extern "system" fn read_attribute(
    of: *const OrtOpAttr,
    kind: OrtOpAttrType,
    data: *mut c_void,
    len: usize,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the attribute is live, there is room for `len` bytes where integers may lie, and a place for their number.
    unsafe {
        let values = match (kind, at::<Attribute, _>(of)) {
            (OrtOpAttrType::ORT_OP_ATTR_INTS, Attribute::List(list)) => &list[..],
            (OrtOpAttrType::ORT_OP_ATTR_INT, Attribute::Number(number)) => std::slice::from_ref(number),
            _ => return fail("it is of another type"),
        };
        *out = size_of_val(values);
        if len < *out {
            return fail("the buffer is too small");
        }
        ptr::copy_nonoverlapping(values.as_ptr(), data.cast(), values.len());
    }
    done()
}

pub(super) unsafe extern "system" fn create_info(out: *mut *mut OrtTensorTypeAndShapeInfo) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = lend(Box::new(Info { element: 0, dims: Vec::new(), names: Vec::new() })) };
    done()
}

pub(super) unsafe extern "system" fn set_element_type(
    of: *mut OrtTensorTypeAndShapeInfo,
    element: ONNXTensorElementDataType,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own.
    unsafe { (*of.cast::<Info>()).element = element as i32 };
    done()
}

pub(super) unsafe extern "system" fn set_dimensions(
    of: *mut OrtTensorTypeAndShapeInfo,
    dims: *const i64,
    rank: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own, and there are as many numbers as said.
    unsafe { (*of.cast::<Info>()).dims = slice(dims, rank).to_vec() };
    done()
}

pub(super) unsafe extern "system" fn set_symbolic_dimensions(
    of: *mut OrtTensorTypeAndShapeInfo,
    names: *mut *const c_char,
    rank: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own, and there are as many names as said, zero-terminated.
    unsafe {
        let names = slice(names, rank);
        (*of.cast::<Info>()).names = names.iter().map(|&name| CStr::from_ptr(name).to_owned()).collect();
    }
    done()
}

pub(super) unsafe extern "system" fn infer_output(
    context: *const OrtShapeInferContext,
    index: usize,
    of: *const OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    assert_eq!(index, 0);
    // SAFETY: context and info are live.
    unsafe {
        let info = at::<Info, _>(of);
        assert_eq!(info.dims.len(), info.names.len());
        let copy = Info { element: info.element, dims: info.dims.clone(), names: info.names.clone() };
        *at::<Inference<'_>, _>(context).output.borrow_mut() = Some(copy);
    }
    done()
}
