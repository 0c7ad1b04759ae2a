//! Any descriptors, lists and contents for the C interface of the stand-in: a status, or the product that the definition
//! gives of the memory that was described.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use half::f16;
use mcd_aclnn::abi::*;
use mcd_core::container::stream_of;
use mcd_core::{
    Activation, CompressedWeight, EncodedWeight, Kernel, MatmulCall, Operands, Profile, Serial, Tiling, WeightType,
    WeightView, encode, unpack,
};

use mcd_testkit::product::sums;

use crate::input::Input;
use crate::reach::reached;

const K: usize = 320;
const N: usize = 128;
/// Bytes a device allocation may have here.
const LIMIT: u64 = 1 << 24;

/// What a process needs once.
struct Device {
    stream: usize,
    weights: Vec<EncodedWeight>,
}

fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let mut stream = ptr::null_mut();
        // SAFETY: no configuration, and a place for the stream.
        let codes = unsafe { [aclInit(ptr::null()), aclrtSetDevice(0), aclrtCreateStream(&mut stream)] };
        assert_eq!(codes, [0; 3]);
        let w: Vec<u8> = (0..N * K).map(|i| if i < 9000 { 3 } else { (i * i / 77 % 11 + i % 3) as u8 }).collect();
        let weights =
            [(Profile::Fast, WeightType::I8), (Profile::Small, WeightType::I8), (Profile::Fast, WeightType::U8)].map(
                |(profile, kind)| {
                    let view = WeightView::new(&w, (N, K), (K, 1), kind).expect("it fits");
                    encode(&view, profile, Tiling::default()).expect("it encodes")
                },
            );
        Device { stream: stream.addr(), weights: weights.into() }
    })
}

/// A tensor as it is described, with what lies in its memory.
struct Tensor {
    element: usize,
    memory: *mut c_void,
    bytes: Vec<u8>,
    offset: usize,
    dims: Vec<i64>,
    handle: *mut c_void,
}

impl Tensor {
    /// Device memory of `bytes`, and a description of it that the input may change.
    fn new(input: &mut Input<'_>, bytes: &[u8], element: usize, data_type: i32, dims: &[i64]) -> Self {
        let flags = input.word();
        let mut dims = dims.to_vec();
        let mut offset = if flags & 1 == 0 { 0 } else { i64::from(input.byte() % 9) };
        let mut held = vec![0xa5; offset as usize * element];
        held.extend(bytes);
        held.resize(held.len().max(1), 0);
        let mut storage = vec![(held.len() / element) as i64];
        let mut memory = ptr::null_mut();
        // SAFETY: a place for the address.
        assert_eq!(unsafe { aclrtMalloc(&mut memory, held.len(), 0) }, 0);
        // SAFETY: memory of this length on both sides.
        assert_eq!(unsafe { aclrtMemcpy(memory, held.len(), held.as_ptr().cast(), held.len(), 1) }, 0);
        let mut data = memory;
        let (mut data_type, mut format, mut strides) = (data_type, 2, None);
        if flags & 2 != 0 {
            let mut number = || input.number();
            match flags >> 8 & 15 {
                0 => data_type = number() as i32,
                1 => format = number() as i32,
                2 => offset = number(),
                3 => dims.push(number()),
                4 => dims.insert(0, 1),
                5 => drop(dims.pop()),
                6 => *dims.last_mut().expect("there is one") = number(),
                7 => dims[0] = dims[0].wrapping_add(number()),
                8 => strides = Some(dims.iter().map(|_| number()).collect::<Vec<_>>()),
                9 => storage[0] = number(),
                10 => storage = vec![number(), number()],
                11 => data = ptr::null_mut(),
                12 => data = data.wrapping_byte_add(number() as usize % 16),
                13 => (storage[0], offset) = (1 << 40, number()), // a description that lies about its memory
                14 => dims.resize(number() as u8 as usize % 12, 1),
                _ => dims.iter_mut().for_each(|dim| *dim = number()),
            }
        }
        let stride = strides.as_ref().map_or(ptr::null(), |strides: &Vec<i64>| strides.as_ptr());
        // SAFETY: as many dimensions, strides (none, or one for each dimension) and sizes of the storage as are said. Whether
        // the data's address and what is said of it are right is checked against the device's allocations, not trusted.
        let handle = unsafe {
            aclCreateTensor(
                dims.as_ptr(),
                dims.len() as u64,
                data_type,
                stride,
                offset,
                format,
                storage.as_ptr(),
                storage.len() as u64,
                data,
            )
        };
        let offset = (data.addr().wrapping_sub(memory.addr())).wrapping_add((offset as usize).wrapping_mul(element));
        Self { element, memory, bytes: held, offset, dims, handle }
    }

    /// The bytes that are described, of a tensor that was accepted.
    fn seen(&self) -> &[u8] {
        let len = self.dims.iter().product::<i64>() as usize * self.element;
        if len == 0 { &[] } else { &self.bytes[self.offset..][..len] }
    }

    /// The description stays within the tensor's own memory. One that does not may lead to another allocation by chance.
    fn is_own(&self) -> bool {
        let len = self.dims.iter().try_fold(self.element, |len, &dim| len.checked_mul(usize::try_from(dim).ok()?));
        let end = len.and_then(|len| self.offset.checked_add(len));
        self.handle.is_null() || end.is_some_and(|end| end <= self.bytes.len())
    }

    fn free(&self) {
        if !self.handle.is_null() {
            aclDestroyTensor(self.handle);
        }
        assert_eq!(aclrtFree(self.memory), 0);
    }
}

/// Runs one input.
pub fn check(data: &[u8]) {
    device(); // Its own objects are not those of an input.
    let live = mcdAclnnLiveObjects();
    let mut input = Input(data);
    let call = Call::read(&mut input);
    // SAFETY: as many numbers as are said.
    let list = unsafe { aclCreateIntArray(call.info.as_ptr(), call.info.len() as u64) };
    let tensors = call.tensors(&mut input);
    let handles = call.handles(&mut input, &tensors, list);
    call.run(&tensors, handles, list);
    tensors.iter().for_each(Tensor::free);
    assert_eq!(aclDestroyIntArray(list), 0);
    assert_eq!(mcdAclnnLiveObjects(), live, "objects are left");
}

/// A call of the operator, as an input says it.
struct Call {
    flags: u16,
    m: usize,
    x1: Vec<u8>,
    x2: Vec<u8>,
    index: Vec<u8>,
    bias: Vec<u8>,
    /// Of so many scales.
    scales: (usize, Vec<u8>),
    info: Vec<i64>,
}

impl Call {
    fn read(input: &mut Input<'_>) -> Self {
        let flags = input.word();
        let m = usize::from(input.byte() % 20);
        let weight = &device().weights[usize::from(input.byte()) % 3];
        let (mut x2, mut index) = (weight.x2.clone(), weight.compress_index.clone());
        for _ in 0..flags & 3 {
            let (at, with) = (usize::from(input.word()), input.byte());
            let into = if at & 7 == 0 { &mut index } else { &mut x2 };
            let len = into.len();
            into[at % len] ^= with;
        }
        let mut info = weight.compress_info.to_vec();
        if flags & 4 != 0 {
            match input.byte() % 8 {
                at @ 0..=4 => info[usize::from(at)] = i64::from_le_bytes(std::array::from_fn(|_| input.byte())),
                5 => info.truncate(usize::from(input.byte() % 5)),
                6 => info.push(0),
                _ => info[2] += i64::from(input.byte()) * 64,
            }
        }
        let seed = input.take(8);
        let noise = |i: usize| seed.get(i % seed.len().max(1)).copied().unwrap_or(7).wrapping_mul(i as u8 | 1);
        let columns = if flags & 8 == 0 { N } else { 1 };
        let mut words: Vec<u64> =
            (0..columns).map(|j| u64::from((f32::from(noise(j)) / 512.0 - 0.1).abs().to_bits())).collect();
        if flags & 16 != 0 {
            words[usize::from(input.byte()) % columns] = u64::from_le_bytes(std::array::from_fn(|_| input.byte()));
        }
        Self {
            flags,
            m,
            x1: (0..m * K).map(noise).collect(),
            x2,
            index,
            bias: (0..N).flat_map(|j| (i32::from(noise(j)) << (j % 20)).to_le_bytes()).collect(),
            scales: (columns, words.iter().flat_map(|word| word.to_le_bytes()).collect()),
            info,
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Descriptions of the operands and of the output.
    fn tensors(&self, input: &mut Input<'_>) -> [Tensor; 6] {
        let (m, n, (columns, scales)) = (self.m as i64, N as i64, &self.scales);
        let scale_dims: &[i64] = if self.has(32) { &[*columns as i64] } else { &[1, *columns as i64] };
        [
            Tensor::new(input, &self.x1, 1, 2, &[m, K as i64]),
            Tensor::new(input, &self.x2, 1, 2, &[self.x2.len() as i64]),
            Tensor::new(input, &self.index, 1, 2, &[self.index.len() as i64]),
            Tensor::new(input, &self.bias, 4, 3, if self.has(64) { &[1, N as i64] } else { &[N as i64] }),
            Tensor::new(input, scales, 8, 10, scale_dims),
            Tensor::new(input, &vec![0x5a; self.m * N * 2], 2, 1, &[m, n]),
        ]
    }

    /// Their handles; the input may want another in the place of one.
    fn handles(&self, input: &mut Input<'_>, tensors: &[Tensor; 6], list: *mut c_void) -> [*mut c_void; 6] {
        let mut handles = tensors.each_ref().map(|tensor| tensor.handle);
        if self.has(128) {
            let (at, other) = (usize::from(input.byte()) % 6, input.byte());
            handles[at] = match other % 9 {
                from @ 0..=5 => handles[usize::from(from)],
                6 => ptr::null_mut(),
                7 => list,
                _ => ptr::without_provenance_mut(usize::from(other) << 32 | 1),
            };
        }
        handles
    }

    /// Both phases; what they have written is held against the definition.
    fn run(&self, tensors: &[Tensor; 6], handles: [*mut c_void; 6], list: *mut c_void) {
        let offset_w = if self.has(256) { handles[0] } else { ptr::null_mut() };
        let (mut size, mut executor) = (0, ptr::null_mut());
        let [x1, x2, index, bias, scale, out] = handles;
        let offset_x = i32::from(self.has(512));
        // SAFETY: places for the results. The handles may be any numbers: they are looked up, not followed.
        let code = unsafe {
            aclnnMatmulCompressDequantGetWorkspaceSize(
                x1,
                x2,
                index,
                bias,
                scale,
                offset_w,
                offset_x,
                list,
                out,
                &mut size,
                &mut executor,
            )
        };
        assert_eq!(code == 0, !executor.is_null());
        if code != 0 {
            return;
        }
        assert!(!self.has(256 | 512), "reserved arguments are accepted");
        let stream = ptr::without_provenance_mut(device().stream);
        let mut workspace = ptr::null_mut();
        if (1..LIMIT).contains(&size) {
            // SAFETY: a place for the address.
            assert_eq!(unsafe { aclrtMalloc(&mut workspace, size as usize, 0) }, 0);
        }
        let given = if self.has(1024) { size.saturating_sub(1) } else { size };
        let launched = aclnnMatmulCompressDequant(workspace, given, executor, stream);
        let finished = aclrtSynchronizeStream(stream);
        let own = tensors.iter().all(Tensor::is_own);
        if launched == 0 && own && handles == tensors.each_ref().map(|tensor| tensor.handle) {
            compare(tensors, &self.info, finished == 0);
        }
        if !workspace.is_null() {
            assert_eq!(aclrtFree(workspace), 0);
        }
    }
}

/// What the stream has written, against the definition.
fn compare([x1, x2, index, bias, scale, out]: &[Tensor; 6], info: &[i64], done: bool) {
    let (m, k, n) = (x1.dims[0] as usize, info[2] as usize, info[3] as usize);
    if m * n == 0 || k == 0 {
        return;
    }
    let words = scale.seen().chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let scales: Option<Vec<f32>> = words
        .map(|word| {
            let value = f32::from_bits(word as u32);
            let high = word >> 32;
            (value.is_finite() && (high == 0 || high == 0xffff_ffff && value.is_sign_negative())).then_some(value)
        })
        .collect();
    let scalar = Kernel::by_name("scalar").expect("it is everywhere");
    let stream = stream_of(x2.seen());
    let weight = CompressedWeight::parse(stream, index.seen(), info)
        .and_then(|weight| unpack(weight, stream, scalar, &Serial))
        .ok()
        .filter(|_| stream[5] & 1 == 0);
    assert_eq!(done, scales.is_some() && weight.is_some(), "accepted and refused");
    let (Some(scales), Some(weight)) = (scales, weight) else { return };
    reached();

    let mut found = vec![0_u8; out.bytes.len()];
    // SAFETY: memory of this length on both sides; the stream was waited for, so nothing writes it.
    assert_eq!(unsafe { aclrtMemcpy(found.as_mut_ptr().cast(), found.len(), out.memory, found.len(), 2) }, 0);
    let x: Vec<i8> = x1.seen().iter().map(|&v| v as i8).collect();
    let biases: Option<Vec<i32>> = (!bias.handle.is_null()).then(|| {
        bias.seen().chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
    });
    let call = MatmulCall {
        x: Activation::I8(&x),
        m,
        operands: Operands { bias: biases.as_deref(), ..Operands::default() },
        heads: None,
    };
    let end = out.offset + m * n * 2;
    assert!(found[..out.offset] == out.bytes[..out.offset] && found[end..] == out.bytes[end..], "written beside out");
    for (i, (sum, found)) in
        sums(&weight, WeightType::I8, n, k, &call).iter().zip(found[out.offset..end].chunks_exact(2)).enumerate()
    {
        let expected = f16::from_f32(*sum as f32 * scales[if scales.len() == 1 { 0 } else { i % n }]).to_bits();
        assert_eq!(u16::from_le_bytes([found[0], found[1]]), expected, "element {i}");
    }
}
