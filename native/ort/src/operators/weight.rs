//! The weight of a node: verified as a whole before its first use, and bound to the bytes it was verified in.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mcd_core::container::{Decoded, memory_needed};
use mcd_core::{
    Bound, CompressedWeight, Kernel, PrepareOptions, PreparedWeight, Residency, VerifiedWeight, WeightType,
};
use ort_sys::ONNXTensorElementDataType as Type;

use crate::ahead;
use crate::decoded_folder::Folder;
use crate::ffi::{Api, Dims, ElementType, Error, KernelContext, KernelInfo, Value};
use crate::large_pages;
use crate::memory::Account;
use crate::operator::Input;
use crate::options::{Options, Verify};
use crate::pool::processors;
use crate::release;
use crate::residency::{Caches, Entry, LEDGER, Policy};
use crate::sharing::Shared;

/// Attribute: tilingK, tilingN, k, n, direction.
pub const COMPRESS_INFO: &CStr = c"compress_info";

/// The error for a list that cannot be [`COMPRESS_INFO`].
pub fn not_five_numbers(list: &[i64]) -> Error {
    if list.is_empty() {
        // A list of no numbers and an attribute of another type look the same to an operator.
        return Error::invalid("compress_info is missing, empty, or no list of integers");
    }
    Error::invalid(format!("compress_info is {list:?} instead of five numbers"))
}

/// Bytes at the beginning of `x2` that hold the checksums of all others.
const FINGERPRINT: usize = 64;

/// What messages in a session's log are from.
const LOG: &CStr = c"mcd";

/// Bytes at the beginning of `x2` that have room for every header, and those at its end that are looked at with it.
const HEADER: usize = 4 << 10;
const TAIL: usize = 64;

/// Where an operator has its weight.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    pub x2: Input,
    pub index: Input,
    /// The input or attribute that tells the type that the weight must have.
    pub declares_type: &'static str,
}

/// What an operator makes of a weight that it verifies.
pub trait Prepared: Sized {
    /// The same with the bytes that it was made from, which is what it is used by.
    type Bound<'a>
    where
        Self: 'a;
    /// Binds it to the bytes that it was made from.
    fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<Self::Bound<'a>, mcd_core::Error>;
    /// Checks all three tensors, every checksum and every code word.
    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error>;
    /// As [`Self::prepare`], and decoded where that is a choice, into a file of `folder` if there is one; shared with all that are
    /// made of the same bytes.
    fn decode(
        x2: &[u8],
        index: &[u8],
        info: &[i64],
        options: PrepareOptions,
        _folder: Option<&'static Folder>,
    ) -> Result<Arc<Self>, mcd_core::Error> {
        Self::prepare(x2, index, info, options).map(Arc::new)
    }
    /// Of a weight that has so many bytes when it is decoded: whether it may be decided at the first run to decode it.
    fn has_choice(_bytes: u64) -> bool {
        false
    }
    /// Whether `kernel` is done with it, compressed, sooner than with its decoded bytes from memory.
    fn outpaces_memory(kernel: Kernel, _bytes: u64) -> bool {
        kernel.outpaces_memory()
    }
    /// What it is decoded to with the residency `decoded`.
    const DECODED: Option<Decoded>;
}

/// What is likely to differ where decoded weights do: their first bytes, `compress_info`, and by which kernel they are
/// multiplied.
type Key = (Vec<u8>, Vec<i64>, (&'static str, bool));

/// The first bytes of a weight.
pub fn first_bytes(x2: &[u8]) -> &[u8] {
    &x2[..x2.len().min(FINGERPRINT)]
}

/// Decoded weights that sessions have.
static DECODED: Shared<Key, PreparedWeight> = Shared::new();

impl Prepared for PreparedWeight {
    type Bound<'a> = Bound<'a, Self>;

    fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<Self::Bound<'a>, mcd_core::Error> {
        self.bind(x2)
    }

    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        Self::new(x2, index, info, options)
    }

    fn decode(
        x2: &[u8],
        index: &[u8],
        info: &[i64],
        options: PrepareOptions,
        folder: Option<&'static Folder>,
    ) -> Result<Arc<Self>, mcd_core::Error> {
        let kernel = options.kernel;
        let key = (first_bytes(x2).to_vec(), info.to_vec(), (kernel.short_name(), kernel.saturates()));
        let room = |len| match folder {
            Some(folder) => folder.room(&key, len),
            None => large_pages::room(len),
        };
        DECODED.get_or_make(
            key.clone(),
            |other| other.is_of(x2, index, info, options.threads),
            || Self::new_in(x2, index, info, PrepareOptions { residency: Residency::Decoded, ..options }, &room),
        )
    }

    fn has_choice(_bytes: u64) -> bool {
        true
    }

    const DECODED: Option<Decoded> = Some(Decoded::Fractals);
}

impl Prepared for VerifiedWeight {
    type Bound<'a> = Bound<'a, Self>;

    fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<Self::Bound<'a>, mcd_core::Error> {
        self.bind(x2)
    }

    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        Self::new(x2, index, info, options.kernel, options.threads)
    }

    const DECODED: Option<Decoded> = None;
}

/// A weight; the compressed bytes stay with onnxruntime.
pub struct Weight<P = PreparedWeight> {
    inputs: Inputs,
    /// The name of `x2`, for messages.
    name: String,
    info: Vec<i64>,
    policy: Policy,
    /// Where it goes if it is decoded; none: into memory of the process.
    folder: Option<&'static Folder>,
    /// Whether its products with uint8 activations saturate, if it is one of int8.
    saturates: bool,
    /// What the type must be, where the node tells.
    expected: Option<WeightType>,
    /// Of the session, where it has a limit.
    account: Option<Arc<Account>>,
    state: State<P>,
}

enum State<P> {
    /// An initializer, checked when the session was created.
    Constant(Constant<P>),
    /// Not an initializer of the node's own graph, verified at the first run. An onnxruntime before 1.29 does not tell
    /// an initializer of an outer graph, as the branches of an If share it, from a computed tensor.
    Deferred(Deferred<P>),
}

/// A weight whose bytes are known at the first run.
struct Deferred<P> {
    made: OnceLock<Verified<P>>,
    /// Holds up all runs but the one that makes it: several that begin at once would each take of the session's memory.
    making: Mutex<()>,
}

/// Memory that was taken for a weight; given back where nothing comes of it.
struct Taken<'a> {
    account: Option<&'a Account>,
    bytes: u64,
}

impl Taken<'_> {
    /// The weight is there.
    fn keep(mut self) {
        self.account = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(account) = self.account {
            account.give_back(self.bytes);
        }
    }
}

/// A weight whose bytes are known when the session is created.
struct Constant<P> {
    /// Length of `x2`.
    len: usize,
    n: usize,
    /// Where it is decided at the first run whether it is decoded.
    entry: Option<Entry>,
    /// What runs use; made at the first of them, where something is left to do.
    made: OnceLock<Arc<P>>,
    /// Holds up all runs but the one that makes it; what the session's creation has verified, if it did.
    making: Mutex<Option<Arc<P>>>,
}

/// A weight that was verified at the first run.
struct Verified<P> {
    weight: Arc<P>,
    /// Length of `x2`.
    len: usize,
    /// The first bytes of `x2`.
    fingerprint: [u8; FINGERPRINT],
}

impl<P: Prepared> Weight<P> {
    /// Verifies the weight of a node, of the type `expected` if that is given.
    pub fn new(
        api: Api,
        options: Options,
        info: &KernelInfo<'_>,
        inputs: Inputs,
        expected: Option<WeightType>,
    ) -> Result<Self, Error> {
        let name = info.input_name(inputs.x2)?;
        let mut weight = Self {
            inputs,
            info: info.ints(COMPRESS_INFO)?,
            name,
            policy: options.residency,
            folder: options.decoded_folder,
            saturates: options.saturates,
            expected,
            account: Account::of_session(info, options.memory_limit)?,
            state: State::Deferred(Deferred { made: OnceLock::new(), making: Mutex::new(()) }),
        };
        let (x2, index) = (info.constant_input(inputs.x2)?, info.constant_input(inputs.index)?);
        match (x2, index) {
            (Some(x2), Some(index)) => {
                let constant = weight.constant(&x2, &index, options.verify)?;
                weight.state = State::Constant(constant);
                weight.tell(|why| info.warn(LOG, why))?;
            }
            _ if api.hides_outer_constants() => {}
            (x2, _) => {
                let missing = if x2.is_none() { inputs.x2 } else { inputs.index };
                return Err(missing.context(Error::invalid("must be an initializer")));
            }
        }
        Ok(weight)
    }

    /// Why the weight cannot be used, though it was verified: its bytes have changed since.
    pub fn refused(&self, error: &mcd_core::Error) -> Error {
        Error::invalid(format!("weight {:?}: {error}; it has changed since it was verified", self.name))
    }

    /// Output columns, as declared.
    pub fn n(&self) -> Result<usize, Error> {
        match &self.state {
            State::Constant(constant) => Ok(constant.n),
            State::Deferred(_) => {
                let declared = self.info.get(3).and_then(|&n| usize::try_from(n).ok());
                declared.ok_or_else(|| not_five_numbers(&self.info))
            }
        }
    }

    /// The weight with the bytes that it has in this call.
    pub fn get<'a>(&'a self, context: &KernelContext<'a>) -> Result<P::Bound<'a>, Error> {
        let (weight, x2) = self.weight_and_bytes(context)?;
        weight.bind(x2).map_err(|error| self.refused(&error))
    }

    fn weight_and_bytes<'a>(&'a self, context: &KernelContext<'a>) -> Result<(&'a P, &'a [u8]), Error> {
        let x2 = context.input(self.inputs.x2)?;
        match &self.state {
            State::Constant(constant) => {
                // SAFETY: a constant input is the same tensor at every call, so it has the length it had at creation.
                let bytes = unsafe { x2.bytes(constant.len) }?;
                let weight = match constant.made.get() {
                    Some(made) => made,
                    None => self.make(constant, context)?,
                };
                Ok((weight, bytes))
            }
            State::Deferred(deferred) => {
                let verified = match deferred.made.get() {
                    Some(verified) => verified,
                    None => self.make_deferred(deferred, &x2, &context.input(self.inputs.index)?)?,
                };
                let bytes = tensor_bytes(&x2, self.inputs.x2)?;
                if bytes.len() != verified.len || !bytes.starts_with(&verified.fingerprint) {
                    return Err(self.inputs.x2.context(Error::invalid("has changed since the first run")));
                }
                Ok((&verified.weight, bytes))
            }
        }
    }

    /// Checks a weight whose bytes are known, and verifies it unless that is left to the first run.
    fn constant(&self, x2: &Value<'_>, index: &Value<'_>, verify: Verify) -> Result<Constant<P>, Error> {
        self.take(index)?.keep();
        let (bytes, index_bytes) = (tensor_bytes(x2, self.inputs.x2)?, tensor_bytes(index, self.inputs.index)?);
        if verify == Verify::Use {
            // Nothing else is read before the first run.
            let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
            ahead::fetch(&[&bytes[..bytes.len().min(HEADER)], index_bytes, tail]);
        }
        let parsed = self.parse(x2, index)?;
        let (n, key) = (parsed.geometry().n(), self.key(bytes));
        let decoded = P::DECODED.map_or(0, |decoded| decoded.bytes(&self.info));
        let entry = (self.policy.is_open() && P::has_choice(decoded)).then(|| LEDGER.enter(key, decoded));
        let verified = match verify {
            Verify::Load => Some(self.verify(x2, index, processors(), self.policy.at_creation())?),
            Verify::Use => {
                // What no run could do with is an error now.
                self.checked(x2, index, |_, _| self.prepare_options().map(drop))?;
                None
            }
        };
        let (made, making) = match (&entry, verified) {
            (None, Some(weight)) => (OnceLock::from(weight), Mutex::new(None)),
            (_, verified) => (OnceLock::new(), Mutex::new(verified)),
        };
        Ok(Constant { len: parsed.x2_len(), n, entry, made, making })
    }

    /// Makes what runs use: decides whether the weight is decoded, and verifies it unless that is done.
    #[cold]
    fn make<'a>(&self, constant: &'a Constant<P>, context: &KernelContext<'_>) -> Result<&'a Arc<P>, Error> {
        let mut verified = constant.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = constant.made.get() {
            return Ok(made);
        }
        let residency = match &constant.entry {
            Some(entry) if self.decodes(entry) => Residency::Decoded,
            Some(_) => Residency::Compressed,
            None => self.policy.at_creation(),
        };
        let made = match (residency, &*verified) {
            (Residency::Compressed, Some(verified)) => Arc::clone(verified),
            _ => {
                let (x2, index) = (context.input(self.inputs.x2)?, context.input(self.inputs.index)?);
                let made = self.verify(&x2, &index, processors(), residency)?;
                self.tell(|why| context.warn(LOG, why))?;
                made
            }
        };
        *verified = None;
        Ok(constant.made.get_or_init(|| made))
    }

    /// Verifies a weight that was not known when the session was created.
    #[cold]
    fn make_deferred<'a>(
        &self,
        deferred: &'a Deferred<P>,
        x2: &Value<'_>,
        index: &Value<'_>,
    ) -> Result<&'a Verified<P>, Error> {
        let _making = deferred.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = deferred.made.get() {
            return Ok(made);
        }
        let taken = self.take(index)?;
        self.parse(x2, index)?;
        let weight = self.verify(x2, index, 1, self.policy.at_creation())?;
        let bytes = tensor_bytes(x2, self.inputs.x2)?;
        let fingerprint = bytes.first_chunk().copied();
        let fingerprint = fingerprint.ok_or_else(|| Error::internal("a weight without a header"))?;
        taken.keep();
        Ok(deferred.made.get_or_init(|| Verified { weight, len: bytes.len(), fingerprint }))
    }

    /// Tells `log` why a decoded weight is not where it should be.
    fn tell(&self, log: impl FnOnce(&str) -> Result<(), Error>) -> Result<(), Error> {
        let why = self.folder.and_then(Folder::take_failure);
        why.map_or(Ok(()), |why| log(&format!("weight {:?}: {why}", self.name)))
    }

    /// Whether the weight is decoded where there is a choice: as the rule has it, and the session's memory allows.
    fn decodes(&self, entry: &Entry) -> bool {
        // Where no kernel can be had, the weight is not verified, which says why.
        let bytes = P::DECODED.map_or(0, |decoded| decoded.bytes(&self.info));
        let outpaces = PrepareOptions::from_env().is_ok_and(|options| P::outpaces_memory(options.kernel, bytes));
        let policy = self.policy.with_kernel(outpaces);
        let decide = || entry.decide(policy, Caches::of_machine(processors()));
        let Some(account) = &self.account else { return decide() };
        let bytes = memory_needed(0, &self.info, P::DECODED);
        if !account.try_take(bytes) {
            return false;
        }
        let decided = decide();
        if !decided {
            account.give_back(bytes);
        }
        decided
    }

    /// Takes what loading the weight needs from the session's memory.
    fn take(&self, index: &Value<'_>) -> Result<Taken<'_>, Error> {
        let Some(account) = &self.account else { return Ok(Taken { account: None, bytes: 0 }) };
        let index = tensor_bytes(index, self.inputs.index)?.len();
        let decoded = P::DECODED.filter(|_| self.policy.at_creation() == Residency::Decoded);
        let bytes = memory_needed(index, &self.info, decoded);
        account.take(bytes).map_err(|error| error.within(&format!("weight {:?}", self.name)))?;
        Ok(Taken { account: Some(account), bytes })
    }

    /// Fails where a call that decodes the weight to so many bytes takes more than what is left of the session's memory.
    pub fn check_output(&self, bytes: usize) -> Result<(), Error> {
        let Some(account) = &self.account else { return Ok(()) };
        account.check(bytes as u64).map_err(|error| error.within(&format!("weight {:?}", self.name)))
    }

    /// What is likely to differ from that of another weight.
    fn key(&self, x2: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (first_bytes(x2), &self.info).hash(&mut hasher);
        hasher.finish()
    }

    /// Header, index and attribute, whose tiles are not verified yet.
    fn parse(&self, x2: &Value<'_>, index: &Value<'_>) -> Result<CompressedWeight, Error> {
        let parsed = self.checked(x2, index, |x2, index| CompressedWeight::parse(x2, index, &self.info))?;
        match self.expected {
            Some(expected) if expected != parsed.weight_type() => {
                let reason = format!("is {} instead of {}", name(expected), name(parsed.weight_type()));
                Err(Error::invalid(reason).within(self.inputs.declares_type))
            }
            _ => Ok(parsed),
        }
    }

    /// By which kernel it is multiplied.
    fn prepare_options(&self) -> Result<PrepareOptions, mcd_core::Error> {
        let options = PrepareOptions::from_env()?;
        if !self.saturates {
            return Ok(options);
        }
        let kernel = options.kernel.saturating().ok_or_else(|| {
            let name = options.kernel.short_name();
            mcd_core::Error::Kernel(format!("{name:?} has no products that saturate; set mcd.products to \"exact\""))
        })?;
        Ok(PrepareOptions { kernel, ..options })
    }

    /// Checks every checksum and every code word, and decodes the weight if it is to be.
    fn verify(
        &self,
        x2: &Value<'_>,
        index: &Value<'_>,
        threads: usize,
        residency: Residency,
    ) -> Result<Arc<P>, Error> {
        self.checked(x2, index, |x2, index| {
            let options = PrepareOptions { residency, threads, ..self.prepare_options()? };
            ahead::will_read_all(x2);
            match residency {
                Residency::Compressed => P::prepare(x2, index, &self.info, options).map(Arc::new),
                Residency::Decoded => {
                    let decoded = P::decode(x2, index, &self.info, options, self.folder)?;
                    if P::DECODED.is_some() {
                        release::read_no_more(x2);
                    }
                    Ok(decoded)
                }
            }
        })
    }

    /// What becomes of the bytes of two tensors; an error names the weight, and says what to do if something is known.
    fn checked<T>(
        &self,
        x2: &Value<'_>,
        index: &Value<'_>,
        work: impl FnOnce(&[u8], &[u8]) -> Result<T, mcd_core::Error>,
    ) -> Result<T, Error> {
        let checked = || {
            let x2 = tensor_bytes(x2, self.inputs.x2)?;
            let index = tensor_bytes(index, self.inputs.index)?;
            work(x2, index).map_err(|error| match error {
                mcd_core::Error::Magic(_) => Error::invalid(format!(
                    "{error}. If CANN's compressor wrote it, only a device reads it: set session config entry mcd.device to \
                     \"ascend:0\""
                )),
                other => Error::invalid(other.to_string()),
            })
        };
        checked().map_err(|error: Error| error.within(&format!("weight {:?}", self.name)))
    }
}

fn name(of: WeightType) -> &'static str {
    match of {
        WeightType::U8 => "uint8",
        WeightType::I8 => "int8",
    }
}

/// The type that an attribute `dtype` stands for, ONNX's number of a type of one byte.
pub fn byte_type(dtype: i64) -> Result<(Type, WeightType), Error> {
    match i32::try_from(dtype).map(ElementType) {
        Ok(ElementType::UINT8) => Ok((Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, WeightType::U8)),
        Ok(ElementType::INT8) => Ok((Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, WeightType::I8)),
        Ok(other) => Err(Error::invalid(format!("dtype is {other} instead of uint8 or int8"))),
        Err(_) => Err(Error::invalid(format!("dtype is {dtype}, which is no type"))),
    }
}

/// The bytes of an int8 tensor of one dimension, or of a uint8 tensor where an overload accepts one, in place.
pub fn tensor_bytes<'a>(value: &Value<'a>, input: Input) -> Result<&'a [u8], Error> {
    let mut dims = Dims::new();
    let mut read = || {
        let len = match value.read_bytes::<u8>(&mut dims) {
            Ok(bytes) => bytes.len(),
            Err(_) => value.read_bytes::<i8>(&mut dims)?.len(),
        };
        if dims.len() != 1 {
            return Err(Error::invalid(format!("has shape {:?} instead of one dimension", &dims[..])));
        }
        // SAFETY: elements of either type are bytes, and there are `len`.
        unsafe { value.bytes(len) }
    };
    read().map_err(|error| input.context(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_bytes() {
        assert_eq!(byte_type(2).unwrap().1, WeightType::U8);
        assert_eq!(byte_type(3).unwrap().1, WeightType::I8);
        assert_eq!(byte_type(1).unwrap_err().to_string(), "dtype is float instead of uint8 or int8");
        assert_eq!(byte_type(1 << 40).unwrap_err().to_string(), "dtype is 1099511627776, which is no type");
    }
}
