//! The inputs that a node has, while its kernel is created.

use mcd_core::WeightType;
use smallvec::SmallVec;

use crate::ffi::{ElementType, Error, KernelInfo};
use crate::operator::Input;
use crate::operators::operand::{Operand, Read, small_integers};

/// The inputs that a node has.
pub struct Inputs<'i, 'a> {
    info: &'i KernelInfo<'a>,
    /// Of those that the node lists, which are not left out.
    present: SmallVec<[bool; 16]>,
}

impl<'i, 'a> Inputs<'i, 'a> {
    pub fn of(info: &'i KernelInfo<'a>) -> Result<Self, Error> {
        let listed = 0..info.input_count()?;
        let present = listed.map(|index| info.input_name(index).map(|name| !name.is_empty()));
        Ok(Self { info, present: present.collect::<Result<_, _>>()? })
    }

    pub fn has(&self, input: Input) -> bool {
        self.present.get(input.index) == Some(&true)
    }

    /// The type of an input, if the node has it.
    pub fn element_type(&self, input: Input) -> Result<Option<ElementType>, Error> {
        if self.has(input) { self.info.input_type(input).map(Some) } else { Ok(None) }
    }

    /// The type of an input of bytes, if the node has it.
    pub fn byte_type(&self, input: Input) -> Result<Option<WeightType>, Error> {
        match self.element_type(input)? {
            None => Ok(None),
            Some(ElementType::UINT8) => Ok(Some(WeightType::U8)),
            Some(ElementType::INT8) => Ok(Some(WeightType::I8)),
            Some(other) => Err(input.context(Error::invalid(format!("is {other} instead of uint8 or int8")))),
        }
    }

    /// An input with one value or `n`, read and checked if it is constant.
    pub fn operand<T: Clone>(&self, input: Input, n: usize, read: Read<T>) -> Result<Operand<T>, Error> {
        if self.has(input) { Operand::present(self.info, input, n, read) } else { Ok(Operand::absent(input)) }
    }
}

/// How zero points of a type are read.
pub fn zero_points(of: WeightType) -> Read<i32> {
    match of {
        WeightType::U8 => small_integers::<u8>,
        WeightType::I8 => small_integers::<i8>,
    }
}
