//! A node and its tensors, described freely.

use std::ffi::{CStr, CString};

/// A tensor of any description.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// ONNX's number of the type.
    pub element: i32,
    /// Its shape.
    pub dims: Vec<i64>,
    /// Elements from `gap` on, which may put them off their alignment.
    pub bytes: Box<[u8]>,
    /// Bytes in front of the elements.
    pub gap: usize,
    /// A run's output: the operator writes it. Inputs are lent to be read only.
    pub(super) output: bool,
}

impl Tensor {
    /// Elements from the first byte on.
    pub fn new(element: i32, dims: &[i64], bytes: &[u8]) -> Self {
        Self { element, dims: dims.to_vec(), bytes: bytes.into(), gap: 0, output: false }
    }
    /// The elements' bytes.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.gap..]
    }
    /// As many elements as the shape has, zeros behind those that are there; the shape is cut down if it has too many.
    pub fn fit(&mut self, limit: usize) {
        let count =
            |dims: &[i64]| dims.iter().try_fold(1_usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?));
        let count = match count(&self.dims) {
            Some(count) if count <= limit => count,
            Some(_) => {
                self.dims = vec![limit as i64];
                limit
            }
            // A shape that no tensor has: it must be refused before there is a question of data.
            None => 0,
        };
        let mut bytes = self.data().to_vec();
        bytes.resize(count * size_of_element(self.element), 0);
        bytes.splice(0..0, vec![0; self.gap]);
        self.bytes = bytes.into();
    }
}

/// Bytes of an element of a type; 8 for those that are not looked at.
pub fn size_of_element(element: i32) -> usize {
    match element {
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 => 4,
        _ => 8,
    }
}

/// An input of a node.
#[derive(Debug, Clone)]
pub struct NodeInput {
    /// What is there.
    pub tensor: Tensor,
    /// An initializer.
    pub constant: bool,
}

/// A node in a session.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// By position; absent ones are `None`.
    pub inputs: Vec<Option<NodeInput>>,
    /// Attribute.
    pub compress_info: Option<Vec<i64>>,
    /// Attribute.
    pub offset_x: Option<i64>,
    /// Attribute.
    pub output_type: Option<i64>,
    /// Attribute.
    pub x1_perm: Option<Vec<i64>>,
    /// Attribute.
    pub y_perm: Option<Vec<i64>>,
    /// Attributes of other names: one integer each.
    pub numbers: Vec<(&'static CStr, i64)>,
    /// And lists of integers.
    pub lists: Vec<(&'static CStr, Vec<i64>)>,
    /// Session config entry.
    pub residency: Option<CString>,
    /// Session config entry.
    pub device: Option<CString>,
    /// Session config entries of other names.
    pub entries: Vec<(&'static CStr, CString)>,
}

impl Node {
    /// An attribute that is one integer.
    pub(super) fn number(&self, name: &CStr) -> Option<i64> {
        match name.to_bytes() {
            b"offset_x" => self.offset_x,
            b"output_type" => self.output_type,
            _ => self.numbers.iter().find(|(other, _)| *other == name).map(|(_, number)| *number),
        }
    }

    /// An attribute that is a list of integers.
    pub(super) fn list(&self, name: &CStr) -> Option<&Vec<i64>> {
        match name.to_bytes() {
            b"compress_info" => self.compress_info.as_ref(),
            b"x1_perm" => self.x1_perm.as_ref(),
            b"y_perm" => self.y_perm.as_ref(),
            _ => self.lists.iter().find(|(other, _)| *other == name).map(|(_, list)| list),
        }
    }

    /// A session config entry.
    pub(super) fn entry(&self, name: &CStr) -> Option<&CString> {
        match name.to_bytes() {
            b"mcd.residency" => self.residency.as_ref(),
            b"mcd.device" => self.device.as_ref(),
            _ => self.entries.iter().find(|(other, _)| *other == name).map(|(_, text)| text),
        }
    }
}
