//! How a kernel goes over an image, as a node's attributes say it, checked.

use mcd_core::{Order, Padding, Window};

use super::spec::{DILATIONS, KERNEL_SHAPE, PADS, STRIDES};
use crate::ffi::Error;

/// Dimensions of an image at the most.
const DIMS: usize = 3;

/// The attributes of a node that say how its kernel goes.
pub struct Attributes {
    pub kernel_shape: Option<Vec<i64>>,
    pub strides: Option<Vec<i64>>,
    pub dilations: Option<Vec<i64>>,
    pub pads: Option<Vec<i64>>,
    pub same: Option<i64>,
}

/// Where images have their channels, as the attribute `channels_last` says it.
pub fn order(channels_last: Option<i64>) -> Result<Order, Error> {
    match channels_last {
        None | Some(0) => Ok(Order::ChannelsFirst),
        Some(1) => Ok(Order::ChannelsLast),
        Some(other) => Err(Error::invalid(format!("channels_last is {other} instead of 0 or 1"))),
    }
}

/// The place of the channels among the dimensions of images with so many dimensions of pixels.
pub fn axis(order: Order, rank: usize) -> usize {
    match order {
        Order::ChannelsFirst => 1,
        Order::ChannelsLast => rank + 1,
    }
}

/// Size of a kernel and its steps.
#[derive(Debug, PartialEq, Eq)]
pub struct Steps {
    pub kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    begin: Vec<usize>,
    end: Vec<usize>,
    same: Same,
}

#[derive(Debug, PartialEq, Eq)]
enum Same {
    No,
    Upper,
    Lower,
}

impl Steps {
    pub fn new(attributes: Attributes) -> Result<Self, Error> {
        let kernel = attributes.kernel_shape.ok_or_else(|| Error::invalid("there is no attribute kernel_shape"))?;
        let rank = kernel.len();
        if !(1..=DIMS).contains(&rank) {
            return Err(Error::invalid(format!("kernel_shape is {kernel:?} instead of one to {DIMS} numbers")));
        }
        let same = match attributes.same {
            None | Some(0) => Same::No,
            Some(1) => Same::Upper,
            Some(2) => Same::Lower,
            Some(other) => return Err(Error::invalid(format!("same is {other} instead of 0, 1 or 2"))),
        };
        if same != Same::No && attributes.pads.is_some() {
            return Err(Error::invalid("pads must be absent where same is not 0"));
        }
        let mut begin = numbers(PADS.to_str().unwrap_or_default(), attributes.pads, 2 * rank, 0)?;
        let end = begin.split_off(rank);
        Ok(Self {
            kernel: numbers(KERNEL_SHAPE.to_str().unwrap_or_default(), Some(kernel), rank, 1)?,
            strides: numbers(STRIDES.to_str().unwrap_or_default(), attributes.strides, rank, 1)?,
            dilations: numbers(DILATIONS.to_str().unwrap_or_default(), attributes.dilations, rank, 1)?,
            begin,
            end,
            same,
        })
    }

    /// Pixels under the kernel.
    pub fn taps(&self) -> Option<usize> {
        self.kernel.iter().try_fold(1_usize, |all, &size| all.checked_mul(size))
    }

    /// The kernel's way over an image of this size.
    pub fn over(&self, image: &[i64]) -> Result<Window, Error> {
        let sizes: Option<Vec<usize>> = image.iter().map(|&size| usize::try_from(size).ok()).collect();
        let sizes = sizes.ok_or_else(|| Error::invalid(format!("an image of {image:?}")))?;
        let padding = match self.same {
            Same::No => Padding::Explicit(&self.begin, &self.end),
            Same::Upper => Padding::SameUpper,
            Same::Lower => Padding::SameLower,
        };
        Window::new(&sizes, &self.kernel, &self.strides, &self.dilations, padding)
            .map_err(|error| Error::invalid(error.to_string()))
    }
}

/// Numbers of an attribute, each `least` at the least, which is what they are where the node has none.
fn numbers(name: &str, given: Option<Vec<i64>>, count: usize, least: i64) -> Result<Vec<usize>, Error> {
    let given = given.filter(|given| !given.is_empty()).unwrap_or_else(|| vec![least; count]);
    let wrong = |what: String| Err(Error::invalid(format!("{name} is {given:?} instead of {what}")));
    if given.len() != count {
        return wrong(format!("{count} numbers"));
    }
    let counted: Option<Vec<usize>> =
        given.iter().map(|&number| usize::try_from(number).ok().filter(|_| number >= least)).collect();
    counted.map_or_else(|| wrong(format!("numbers that are {least} or more")), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_first_unless_the_attribute_says_last() {
        for (attribute, expected, place) in
            [(None, Order::ChannelsFirst, 1), (Some(0), Order::ChannelsFirst, 1), (Some(1), Order::ChannelsLast, 3)]
        {
            let found = order(attribute).unwrap();
            assert_eq!((found, axis(found, 2)), (expected, place));
        }
        assert_eq!(order(Some(2)).unwrap_err().to_string(), "channels_last is 2 instead of 0 or 1");
    }

    fn attributes() -> Attributes {
        Attributes { kernel_shape: Some(vec![3, 3]), strides: None, dilations: None, pads: None, same: None }
    }

    #[test]
    fn what_is_absent_is_as_onnx_has_it() {
        let steps = Steps::new(attributes()).unwrap();
        assert_eq!(
            (steps.strides, steps.dilations, steps.begin, steps.end),
            (vec![1, 1], vec![1, 1], vec![0, 0], vec![0, 0])
        );
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let refused = |attributes| Steps::new(attributes).unwrap_err().to_string();
        for (list, text) in [
            (Attributes { kernel_shape: None, ..attributes() }, "there is no attribute kernel_shape"),
            (
                Attributes { kernel_shape: Some(vec![3; 4]), ..attributes() },
                "kernel_shape is [3, 3, 3, 3] instead of one to 3 numbers",
            ),
            (
                Attributes { kernel_shape: Some(vec![3, 0]), ..attributes() },
                "kernel_shape is [3, 0] instead of numbers that are 1 or more",
            ),
            (
                Attributes { strides: Some(vec![0, 1]), ..attributes() },
                "strides is [0, 1] instead of numbers that are 1 or more",
            ),
            (Attributes { dilations: Some(vec![1]), ..attributes() }, "dilations is [1] instead of 2 numbers"),
            (
                Attributes { pads: Some(vec![0, -1, 0, 0]), ..attributes() },
                "pads is [0, -1, 0, 0] instead of numbers that are 0 or more",
            ),
            (
                Attributes { pads: Some(vec![0; 4]), same: Some(1), ..attributes() },
                "pads must be absent where same is not 0",
            ),
            (Attributes { same: Some(3), ..attributes() }, "same is 3 instead of 0, 1 or 2"),
        ] {
            assert_eq!(refused(list), text);
        }
        let steps = Steps::new(Attributes { dilations: Some(vec![i64::MAX, 1]), ..attributes() }).unwrap();
        assert!(steps.over(&[9, 9]).is_err());
        assert!(steps.over(&[9]).is_err());
        assert!(steps.over(&[-1, 9]).is_err());
    }
}
