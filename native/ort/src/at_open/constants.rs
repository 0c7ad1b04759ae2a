//! What a model's metadata says of its constants, and their bytes in the data file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use mcd_core::container::{Decoded, memory_needed};
use mcd_core::{CompressedWeight, Kernel, Layout, Serial, WeightType, unpack_into};
use ort_sys::ONNXTensorElementDataType as Type;
use serde::Deserialize;

use super::metadata;
use crate::ffi::{ByteTensor, Error, element_count, with_room};

/// The function of a model without a data file whose tensor takes the place of that file.
const FUNCTION: &str = "mcd_at_open_data";

/// An allocation that glibc always gives pages of their own, and gives back to the system: its limit grows to 32 MiB.
const OWN_PAGES: usize = (32 << 20) + 1;

/// Bytes that are worth that.
const WORTH_OWN_PAGES: usize = 64 << 10;

/// The bytes of a constant: in memory, or where a file backs them.
pub type Restored = Cow<'static, [u8]>;

/// The constants of a model.
#[derive(Deserialize)]
pub struct Constants {
    /// The data file: first its name, beside the model, as the metadata has it. Without a name, the model file.
    data: PathBuf,
    /// The part of that file that places are counted in; all of it by default.
    #[serde(skip)]
    part: Option<Range<u64>>,
    /// The constants.
    #[serde(rename = "constants")]
    pub list: Vec<Constant>,
}

/// A constant whose compressed weight is in the data file.
#[derive(Deserialize)]
pub struct Constant {
    /// The initializer's name.
    pub name: String,
    dtype: String,
    shape: Vec<i64>,
    compress_info: Vec<i64>,
    transposed: u8,
    x2: FileRange,
    compress_index: FileRange,
}

/// Name, offset and length of a tensor in the data file.
#[derive(Deserialize)]
struct FileRange(#[expect(dead_code, reason = "read by the Python package alone")] String, u64, u64);

impl Constants {
    /// Reads the text that the metadata of the model at `path` has.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let mut constants: Self = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("metadata mcd.at_open cannot be read: {error}")))?;
        if constants.data.as_os_str().is_empty() {
            let gone =
                "the compressed constants are not in the model: another program has written it anew, without them";
            constants.part = Some(metadata::data_of(path, FUNCTION)?.ok_or_else(|| Error::invalid(gone))?);
            path.clone_into(&mut constants.data);
            return Ok(constants);
        }
        let mut parts = constants.data.components();
        let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else {
            return Err(Error::invalid(format!("the data file {:?} is not beside the model", constants.data)));
        };
        constants.data = path.with_file_name(name);
        Ok(constants)
    }

    /// Decodes a constant, all checksums checked. `passing`: its bytes are soon dropped.
    pub fn restore(&self, constant: &Constant, passing: bool) -> Result<Vec<u8>, Error> {
        let (_, count) = constant.element_and_count()?;
        let (x2, index) = self.stream(constant)?;
        let refused = |error: mcd_core::Error| Error::invalid(error.to_string());
        let kernel = Kernel::from_env().map_err(refused)?;
        let weight = CompressedWeight::parse(&x2, &index, &constant.compress_info).map_err(refused)?;
        let declared = if constant.dtype == "uint8" { WeightType::U8 } else { WeightType::I8 };
        if weight.weight_type() != declared {
            return Err(Error::invalid(format!("it is declared as {}, and its weight is not", constant.dtype)));
        }
        let layout = if constant.transposed == 0 { Layout::Kn } else { Layout::Nk };
        let mut bytes = if passing { passing_room(count)? } else { with_room(count, "a restored constant")? };
        // Each tile is checked just before it is decoded: it comes into the caches once.
        unpack_into(layout, weight, &x2, kernel, &mut bytes.spare_capacity_mut()[..count], &Serial)
            .map_err(refused)?;
        // SAFETY: all of them were written.
        unsafe { bytes.set_len(count) };
        Ok(bytes)
    }

    /// The stream and the index of a constant.
    fn stream(&self, constant: &Constant) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let in_file = |error: std::io::Error| Error::invalid(format!("{}: {error}", self.data.display()));
        let mut file = File::open(&self.data).map_err(in_file)?;
        let all = 0..file.metadata().map_err(in_file)?.len();
        let part = self.part.as_ref().unwrap_or(&all);
        let mut read = |&FileRange(_, offset, len): &FileRange| {
            if offset.checked_add(len).is_none_or(|last| last > part.end - part.start) {
                return Err(Error::invalid(format!("{} is too short", self.data.display())));
            }
            let len = usize::try_from(len).map_err(|_| Error::invalid("it is too large"))?;
            let mut bytes = passing_room(len)?;
            file.seek(SeekFrom::Start(part.start + offset)).map_err(in_file)?;
            let found = (&mut file).take(len as u64).read_to_end(&mut bytes).map_err(in_file)?;
            if found < len {
                return Err(Error::invalid(format!("{} is too short", self.data.display())));
            }
            Ok(bytes)
        };
        Ok((read(&constant.x2)?, read(&constant.compress_index)?))
    }
}

/// Room for bytes that are soon dropped. Allocators keep what was freed of less than [`OWN_PAGES`], megabytes for each thread
/// that restores constants; pages that are not touched take no memory.
fn passing_room(len: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    if len >= WORTH_OWN_PAGES && bytes.try_reserve_exact(len.max(OWN_PAGES)).is_ok() {
        return Ok(bytes);
    }
    with_room(len, "a compressed constant")
}

impl Constant {
    /// Bytes that it takes when it is restored, at the most.
    pub fn memory_needed(&self) -> u64 {
        memory_needed(0, &self.compress_info, Some(Decoded::Plain))
    }

    /// Bytes that it has when it is restored; none where what is said of it does not fit together.
    pub fn size(&self) -> u64 {
        self.element_and_count().map_or(0, |(_, count)| count as u64)
    }

    /// The tensor of its bytes.
    pub fn tensor(&self, bytes: Restored) -> Result<ByteTensor, Error> {
        let (element, _) = self.element_and_count()?;
        Ok(ByteTensor { name: self.name.clone(), element, shape: self.shape.clone(), bytes })
    }

    /// The type of its elements, and how many it has.
    fn element_and_count(&self) -> Result<(Type, usize), Error> {
        let element = match self.dtype.as_str() {
            "int8" => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
            "uint8" => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
            other => return Err(Error::invalid(format!("its type is {other:?}, not int8 or uint8"))),
        };
        let &[_, _, k, n, _] = self.compress_info.as_slice() else {
            return Err(Error::invalid(format!("compress_info is {:?} instead of five numbers", self.compress_info)));
        };
        let count = element_count(&self.shape)?;
        if count != element_count(&[k, n])? {
            return Err(Error::invalid(format!("shape is {:?}, and the weight has {k} x {n} elements", self.shape)));
        }
        Ok((element, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_streams_have_pages_of_their_own_and_small_ones_do_not() {
        assert!(passing_room(WORTH_OWN_PAGES).unwrap().capacity() >= OWN_PAGES);
        assert!(passing_room(2 * OWN_PAGES).unwrap().capacity() >= 2 * OWN_PAGES);
        assert_eq!(passing_room(100).unwrap().capacity(), 100);
        assert!(passing_room(usize::MAX).is_err());
    }
}
