//! Any attributes and inputs for the operators that decode constants, look up rows and convolve: an error, or the output that
//! their definitions give.

mod reference;
mod subject;
mod valid;

use mcd_testkit::onnxruntime::{Node, NodeInput, Operator, Tensor};

use self::subject::{Form, Weight, tensor, weights};
use crate::input::Input;
use crate::operator::{change_tensor, operators};
use crate::reach::reached;

/// The overload as onnxruntime 1.20 or 1.32 gets to know it.
fn operator(form: Form, newer: bool) -> Operator {
    let (name, place) = form.overload();
    *operators(newer).iter().filter(|operator| operator.name() == name).nth(place).expect("there is one")
}

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let weight = &weights()[usize::from(input.byte()) % weights().len()];
    let form = Form::ALL[usize::from(input.byte()) % Form::ALL.len()];
    let newer = input.byte() % 4 != 0;
    let mut node = valid::node(&mut input, weight, form);
    for _ in 0..input.byte() % 4 {
        change(&mut input, &mut node);
    }
    let operator = operator(form, newer);
    let inferred = operator.infer(&node);
    let Ok(kernel) = operator.create(&node) else { return };
    for run in 0..2 {
        let Ok(output) = kernel.run(&node) else { return };
        if let (0, Some((_, dims))) = (run, &inferred) {
            let same = dims.len() == output.dims.len();
            let same =
                same && dims.iter().zip(&output.dims).all(|(inferred, found)| *inferred < 0 || inferred == found);
            assert!(same, "{dims:?} was inferred, not {:?}", output.dims);
        }
        compare(&node, weight, form, &output, run == 0);
        reached();
        // Other values for the next run, in a tensor that was computed.
        let index = usize::from(input.byte()) % node.inputs.len();
        if let Some(computed) = node.inputs[index].as_mut().filter(|of| !of.constant) {
            change_tensor(&mut input, &mut computed.tensor);
        }
    }
}

/// Where x2 is among the inputs; the index is behind it.
fn place_of_x2(form: Form) -> usize {
    usize::from(matches!(form, Form::Convolution(_)))
}

/// Changes a node in one respect.
fn change(input: &mut Input<'_>, node: &mut Node) {
    let index = usize::from(input.byte()) % node.inputs.len();
    match input.byte() % 12 {
        0 => node.inputs[index] = None,
        1 => {
            let mut tensor = Tensor::new(i32::from(input.byte() % 17), &[], &[]);
            change_tensor(input, &mut tensor);
            node.inputs[index] = Some(NodeInput { tensor, constant: input.byte().is_multiple_of(2) });
        }
        2..=4 => {
            if let Some(of) = &mut node.inputs[index] {
                change_tensor(input, &mut of.tensor);
            }
        }
        5 => {
            if let Some(of) = &mut node.inputs[index] {
                of.constant = !of.constant;
            }
        }
        6 => {
            let info = node.compress_info.get_or_insert_default();
            let at = usize::from(input.byte()) % 6;
            info.resize(info.len().max(at + 1), 0);
            info[at] = input.number();
        }
        7 => {
            let at = usize::from(input.byte());
            if let Some((_, number)) = node.numbers.get_mut(at % 4) {
                *number = input.number();
            }
        }
        8 | 9 => {
            let at = usize::from(input.byte());
            if let Some((_, list)) = node.lists.get_mut(at % 4) {
                match (input.byte() % 3, list.len()) {
                    (0, _) => list.push(input.number()),
                    (1, _) => drop(list.pop()),
                    (_, 0) => {}
                    (_, len) => list[at % len] = input.number(),
                }
            }
        }
        10 => drop((node.numbers.pop(), node.lists.pop())),
        _ => {
            let limit = [c"0", c"100", c"100000", c"x"][usize::from(input.byte()) % 4];
            node.entries = vec![(c"mcd.memory_limit", limit.to_owned())];
        }
    }
}

/// Holds an output against the definition.
fn compare(node: &Node, weight: &Weight, form: Form, output: &Tensor, first: bool) {
    let x2 = place_of_x2(form);
    let held = |index| tensor(node, index).map(Tensor::data);
    let unchanged = held(x2) == Some(&weight.encoded.x2)
        && held(x2 + 1) == Some(&weight.encoded.compress_index)
        && node.compress_info.as_deref() == Some(&weight.encoded.compress_info[..]);
    if !unchanged {
        // One that is no initializer is verified as a whole at the first run; what it is later is only held to be safe.
        assert!(!first, "a weight that was changed is run");
        return;
    }
    let (dims, width, expected) = match form {
        Form::Weight => reference::weight(node, weight),
        Form::Floats => reference::floats(node, weight),
        Form::Rows(_, scaled) => reference::rows(node, weight, scaled),
        Form::Convolution(which) => reference::convolution(node, weight, which),
    };
    assert_eq!(output.dims, dims, "{form:?}");
    for (i, expected) in expected.into_iter().enumerate() {
        let bytes = &output.bytes[i * width..(i + 1) * width];
        let word = bytes.iter().rev().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let nan = |bits: u32| width == 4 && f32::from_bits(bits).is_nan();
        let floats = matches!(form, Form::Floats | Form::Rows(_, true) | Form::Convolution(1));
        let both = floats && nan(word) && nan(expected);
        assert!(word == expected || both, "{form:?}: {word:08x} instead of {expected:08x} at {i} of {dims:?}");
    }
}
