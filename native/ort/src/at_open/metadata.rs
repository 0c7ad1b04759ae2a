//! A model's metadata, and data inside of it, found without reading the rest of its file.
//!
//! A model file is a protobuf message (`ModelProto` of onnx.proto): fields one after the other, each with its number and,
//! for those with content, its length, so that all but one kind can be skipped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use crate::ffi::Error;

/// Field `metadata_props` of a `ModelProto`.
const METADATA: u64 = 14;
/// Fields of a `StringStringEntryProto`.
const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;
/// Field `functions` of a `ModelProto`.
const FUNCTIONS: u64 = 25;
/// Field `name` of a `FunctionProto`.
const FUNCTION_NAME: u64 = 1;
/// From a `FunctionProto` to the bytes of a tensor in it: `node`, its `attribute`, the tensor `t`, its `raw_data`.
const DATA: [u64; 4] = [7, 5, 5, 9];

/// More metadata than this under one key is a damaged file.
const LIMIT: u64 = 64 << 20;

/// So many bytes are read at once. The standard library's reader ends the process where it cannot have its buffer, and what is
/// large is skipped or read past it.
const BUFFER: usize = 512;

/// The text that the model at `path` has under `key`, if any. A file that is no model has none: onnxruntime says so.
pub fn find(path: &Path, key: &str) -> Result<Option<String>, Error> {
    let failed = |error: io::Error| Error::invalid(error.to_string());
    let file = File::open(path).map_err(failed)?;
    match find_in(&mut BufReader::with_capacity(BUFFER, file), key) {
        Ok(found) => Ok(found),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Where in the model at `path` the tensor lies that function `name` gives, if there is such a function.
pub fn data_of(path: &Path, name: &str) -> Result<Option<Range<u64>>, Error> {
    let failed = |error: io::Error| Error::invalid(error.to_string());
    let file = File::open(path).map_err(failed)?;
    match data_in(&mut BufReader::new(file), name) {
        Ok(found) => Ok(found),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn data_in<R: Read + Seek>(file: &mut BufReader<R>, name: &str) -> io::Result<Option<Range<u64>>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut rest = 0..end;
    while let Some(function) = field_in(file, &rest, FUNCTIONS)? {
        rest.start = function.end;
        if is_named(file, &function, name)? {
            return DATA.into_iter().try_fold(Some(function), |message, number| match message {
                Some(message) => field_in(file, &message, number),
                None => Ok(None),
            });
        }
    }
    Ok(None)
}

/// Whether the first name that a function has is `name`.
fn is_named<R: Read + Seek>(file: &mut BufReader<R>, function: &Range<u64>, name: &str) -> io::Result<bool> {
    let Some(found) = field_in(file, function, FUNCTION_NAME)? else { return Ok(false) };
    if found.end - found.start != name.len() as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0; name.len()];
    file.read_exact(&mut bytes)?;
    Ok(bytes == name.as_bytes())
}

/// Where the content of the next field `number` of a message is; the file is there then.
fn field_in<R: Read + Seek>(
    file: &mut BufReader<R>,
    message: &Range<u64>,
    number: u64,
) -> io::Result<Option<Range<u64>>> {
    file.seek(SeekFrom::Start(message.start))?;
    while file.stream_position()? < message.end {
        let Some((field, wire)) = tag(file)? else { return Ok(None) };
        match wire {
            0 => drop(varint(file)?),
            1 => file.seek_relative(8)?,
            2 => {
                let len = varint(file)?;
                let start = file.stream_position()?;
                let end = start.checked_add(len).filter(|&end| end <= message.end).ok_or_else(damaged)?;
                if field == number {
                    return Ok(Some(start..end));
                }
                file.seek(SeekFrom::Start(end))?;
            }
            5 => file.seek_relative(4)?,
            _ => return Err(damaged()),
        }
    }
    Ok(None)
}

fn find_in<R: Read + Seek>(file: &mut BufReader<R>, key: &str) -> io::Result<Option<String>> {
    while let Some((field, wire)) = tag(file)? {
        match wire {
            0 => drop(varint(file)?),
            1 => file.seek_relative(8)?,
            2 => {
                let len = varint(file)?;
                if field != METADATA || len > LIMIT {
                    file.seek_relative(i64::try_from(len).map_err(|_| damaged())?)?;
                } else if let Some(text) = entry(&mut file.take(len), key)? {
                    return Ok(Some(text));
                }
            }
            5 => file.seek_relative(4)?,
            _ => return Err(damaged()),
        }
    }
    Ok(None)
}

/// The value of an entry if its key is `key`; takes all of the entry.
fn entry(input: &mut impl BufRead, key: &str) -> io::Result<Option<String>> {
    let (mut is_it, mut text) = (false, None);
    while let Some((field, wire)) = tag(input)? {
        if wire != 2 {
            return Err(damaged());
        }
        let len = varint(input)?;
        let mut bytes = Vec::new();
        if input.take(len).read_to_end(&mut bytes)? as u64 != len {
            return Err(damaged());
        }
        match field {
            ENTRY_KEY => is_it = bytes == key.as_bytes(),
            ENTRY_VALUE => text = Some(String::from_utf8(bytes).map_err(|_| damaged())?),
            _ => {}
        }
    }
    Ok(text.filter(|_| is_it))
}

/// The number of the next field and how its content is written; none at the end.
fn tag(input: &mut impl BufRead) -> io::Result<Option<(u64, u64)>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let tag = varint(input)?;
    Ok(Some((tag >> 3, tag & 7)))
}

fn varint(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn damaged() -> io::Error {
    io::Error::from(ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn metadata(key: &str, value: &str) -> Vec<u8> {
        field(14, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
    }

    fn found(bytes: &[u8]) -> Option<Option<String>> {
        find_in(&mut BufReader::with_capacity(16, Cursor::new(bytes)), "key").ok()
    }

    #[test]
    fn an_entry_is_found_behind_other_fields() {
        let model = [
            &[8, 10][..], // ir_version
            &field(7, &[0xff; 100]),
            &[0x0d, 1, 2, 3, 4],             // a fixed number of 4 bytes
            &[0x09, 1, 2, 3, 4, 5, 6, 7, 8], // and of 8
            &metadata("other", "x"),
            &metadata("key", "text"),
        ]
        .concat();
        assert_eq!(found(&model), Some(Some("text".to_owned())));
        assert_eq!(found(&model[..model.len() - 13]), Some(None));
    }

    #[test]
    fn the_data_of_a_function_is_found() {
        let long = |number: u8, content: &[u8]| {
            let mut out = vec![number << 3 | 2 | 0x80, number >> 4];
            out.push(u8::try_from(content.len()).unwrap());
            [&out, content].concat()
        };
        let tensor = [&[16, 2][..], &field(8, b"t"), &field(9, b"the data")].concat();
        let attribute = [&field(1, b"value")[..], &field(5, &tensor)].concat();
        let node = [&field(4, b"Constant")[..], &field(5, &attribute)].concat();
        let function = |name: &[u8]| [&field(1, name)[..], &field(7, &node)].concat();
        let model = [
            &[8, 10][..],
            &field(7, &[0xff; 20]), // whatever is inside of the graph
            &long(25, &function(b"other")),
            &long(25, &function(b"it")),
            &metadata("key", "text"),
        ]
        .concat();
        let found = |bytes: &[u8], name| data_in(&mut BufReader::with_capacity(16, Cursor::new(bytes)), name).ok();
        let place = found(&model, "it").unwrap().unwrap();
        assert_eq!(&model[place.start as usize..place.end as usize], b"the data");
        assert!(place.start as usize > model.len() / 2, "of the second");
        assert_eq!(found(&model, "is"), Some(None));
        assert_eq!(found(&model[..place.end as usize - 1], "it"), None, "cut off");
        assert_eq!(found(&[], "it"), Some(None));
    }

    #[test]
    fn what_is_no_model_has_none() {
        for bytes in [&b"\x0f"[..], &[14 << 3 | 2, 200, 1, 0], &[0xff; 20], &[14 << 3 | 2, 3, 8, 1, 1]] {
            assert_eq!(found(bytes), None, "{bytes:?}");
        }
        assert_eq!(found(&[]), Some(None));
    }
}
