//! Constants that are restored when a session is created.
//!
//! In the model file they are initializers whose data lies nowhere, and the model's metadata says where their compressed
//! weights are. Session config entry `mcd.model` names the model file. With it, the library decodes the constants when it
//! is registered, and gives them to the session options, as onnxruntime's `AddExternalInitializers` does. For the session
//! they are initializers like others: packed and folded as ever.
//!
//! - [`metadata`]: what a model file says of itself, found without reading the rest
//! - [`constants`]: what the metadata says of the constants, and their bytes in the data file
//! - [`backing`]: a file below the restored ones

mod backing;
mod constants;
mod metadata;

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use mcd_core::Parallel;
use mcd_core::parallel::Scoped;
use ort_sys::OrtSessionOptions;

pub use self::backing::drop_pages;

use self::backing::Backing;
use self::constants::{Constant, Constants, Restored};
use crate::ffi::{Api, ByteTensor, Error, with_room};
use crate::memory::exceeded;
use crate::options::{MEMORY_LIMIT, bytes};
use crate::pool::processors;

/// Session config entry: the path of the model that the options are for.
const MODEL: &CStr = c"mcd.model";

/// Session config entry that marks options which have a model's constants already.
const RESTORED: &CStr = c"mcd.restored";

/// The model's metadata that says which constants there are.
const KEY: &str = "mcd.at_open";

/// Gives a model's constants to the session options that name it; does nothing for others.
///
/// # Safety
///
/// `options` is live and belongs to `api`.
pub unsafe fn restore(api: Api, options: *mut OrtSessionOptions) -> Result<(), Error> {
    // SAFETY: the caller's contract.
    let Some(model) = (unsafe { api.session_config_entry(options, MODEL) })? else { return Ok(()) };
    let with_context = |error: Error| error.within(&format!("session config entry mcd.model: {model}"));
    let path = Path::new(&model);
    let mark = mark(path);
    let prefix = format!("{options:p} ");
    // SAFETY: the caller's contract.
    let before = (unsafe { api.session_config_entry(options, RESTORED) })?;
    // A clone of options has the entries of the original.
    let before = before.as_deref().and_then(|found| found.strip_prefix(&prefix));
    if before.is_some_and(|before| mark.as_ref().is_ok_and(|mark| mark == before)) {
        return Ok(());
    }
    // Whatever this model is: onnxruntime would take them for initializers of the same names in it.
    if before.is_some() {
        return Err(with_context(Error::invalid(
            "the session options have the constants of another model, or of an older state of this one: \
             give each model session options of its own",
        )));
    }
    let mark = mark.map_err(with_context)?;
    let Some(text) = metadata::find(path, KEY).map_err(with_context)? else { return Ok(()) };
    // SAFETY: the caller's contract.
    let limit = (unsafe { api.session_config_entry(options, MEMORY_LIMIT) })?;
    let limit = bytes(MEMORY_LIMIT, limit.as_deref())?;
    let tensors = shared(path, &mark, &text, limit).map_err(with_context)?;
    // SAFETY: the caller's contract.
    unsafe {
        api.add_external_initializers(options, tensors)?;
        api.set_session_config_entry(options, RESTORED, &format!("{prefix}{mark}"))
    }
}

/// A model's constants, decoded; none where it does not say that it has any.
pub fn constants_of(path: &Path) -> Result<Vec<ByteTensor>, Error> {
    match metadata::find(path, KEY)? {
        None => Ok(Vec::new()),
        Some(text) => restored(&Constants::parse(&text, path)?),
    }
}

/// What tells the state of a model file.
fn mark(model: &Path) -> Result<String, Error> {
    let status = fs::metadata(model).map_err(|error| Error::invalid(error.to_string()))?;
    let modified = status.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{} {} {}", model.display(), status.len(), modified.as_nanos()))
}

/// The constants of a model, decoded once for all sessions of the process that open it.
fn shared(model: &Path, mark: &str, text: &str, limit: u64) -> Result<&'static [ByteTensor], Error> {
    // Options and sessions keep pointers to the data and nothing tells when the last one has gone, so it stays.
    static MODELS: Mutex<Vec<(String, &'static [ByteTensor])>> = Mutex::new(Vec::new());

    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, tensors)) = models.iter().find(|(known, _)| known == mark) {
        check_memory(tensors.iter().map(|tensor| tensor.bytes.len() as u64), limit)?;
        return Ok(tensors);
    }
    let constants = Constants::parse(text, model)?;
    check_memory(constants.list.iter().map(Constant::memory_needed), limit)?;
    let tensors: &'static [ByteTensor] = restored(&constants)?.leak();
    models.push((mark.to_owned(), tensors));
    Ok(tensors)
}

/// Holds what constants take in all to a session's limit.
fn check_memory(constants: impl Iterator<Item = u64>, limit: u64) -> Result<(), Error> {
    let needed = constants.fold(0, u64::saturating_add);
    if needed > limit {
        return Err(exceeded(needed, limit, limit).within("its constants that are restored at opening"));
    }
    Ok(())
}

/// Decodes all constants, several at a time: to a file if they are large, and where that fails, to memory.
fn restored(constants: &Constants) -> Result<Vec<ByteTensor>, Error> {
    let Some(backing) = Backing::of(constants.list.iter().map(Constant::size)) else { return in_memory(constants) };
    let written = each(constants, true, |index, bytes| backing.write(index, &bytes))?;
    let mapped = if written.iter().all(|&written| written) { backing.mapped() } else { None };
    let Some(mapped) = mapped else { return in_memory(constants) };
    let bytes = constants.list.iter().enumerate().map(|(index, constant)| {
        let size = usize::try_from(constant.size()).unwrap_or(usize::MAX);
        mapped.constant(index, size).ok_or_else(|| Error::internal("a constant was not restored"))
    });
    tensors(constants, bytes)
}

/// Decodes all constants to memory.
fn in_memory(constants: &Constants) -> Result<Vec<ByteTensor>, Error> {
    let decoded = each(constants, false, |_, bytes| Restored::Owned(bytes))?;
    tensors(constants, decoded.into_iter().map(Ok))
}

/// The tensors of constants whose bytes are given.
fn tensors(
    constants: &Constants,
    bytes: impl Iterator<Item = Result<Restored, Error>>,
) -> Result<Vec<ByteTensor>, Error> {
    let mut tensors = with_room(constants.list.len(), "the constants")?;
    for (constant, bytes) in constants.list.iter().zip(bytes) {
        tensors.push(constant.tensor(bytes?)?);
    }
    Ok(tensors)
}

/// Decodes all constants, several at a time, and returns what `done` makes of each; `passing`: it drops the bytes.
fn each<T: Send>(
    constants: &Constants,
    passing: bool,
    done: impl Fn(usize, Vec<u8>) -> T + Sync,
) -> Result<Vec<T>, Error> {
    let mut places = with_room(constants.list.len(), "the constants")?;
    places.resize_with(constants.list.len(), Mutex::<Option<Result<T, Error>>>::default);
    Scoped(processors()).run(constants.list.len(), &|index| {
        let (Some(constant), Some(place)) = (constants.list.get(index), places.get(index)) else { return };
        let made = constants.restore(constant, passing).map(|bytes| done(index, bytes));
        let made = made.map_err(|error| error.within(&format!("constant {:?}", constant.name)));
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
    });
    let mut all = with_room(places.len(), "the constants")?;
    for place in places {
        let made = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.push(made.unwrap_or_else(|| Err(Error::internal("a constant was not restored")))?);
    }
    Ok(all)
}
