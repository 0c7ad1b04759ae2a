//! The positions of an image in pieces, what is made of their sums, and where it goes.

use super::window::{DIMS, Window};
use crate::arch::Multiplier;
use crate::arch::output::ScalarOrPerColumn::{self, Scalar};
use crate::arch::output::{Destination, Elementwise, Epilogue, Output};
use crate::arch::rows::{Terms, WeightTerm};
use std::mem::MaybeUninit;
use std::ops::Range;

/// How positions are divided: whole lines of them, or parts of a line.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    /// Lines of the output in a plane, and in all.
    lines: [usize; 2],
    width: usize,
    /// Where the sums of lines and planes begin: so many behind each other.
    apart: [usize; 2],
    /// Lines of a piece, and positions of a line that it has.
    size: [usize; 2],
}

/// Positions: the same ones of some lines.
#[derive(Debug)]
pub struct Piece {
    /// Its sums, of those of all positions: they have others between lines.
    pub sums: Range<usize>,
    /// The first position, of all of the output.
    pub first: usize,
    lines: Range<usize>,
    /// Positions of each line.
    width: usize,
    pieces: Pieces,
}

impl Pieces {
    /// Of so many positions, about; `phase` is the size of a [phase](super::phases::Phases), in which sums lie.
    pub fn new(window: &Window, phase: [usize; DIMS], positions: usize) -> Self {
        let [depth, lines, width] = window.output;
        let apart = [phase[2], phase[1] * phase[2]];
        let size = match positions / apart[0].max(1) {
            0 | 1 => [1, positions.min(width)],
            together => [together.min(depth * lines), width],
        };
        Self { lines: [lines, depth * lines], width, apart, size }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        if self.width == 0 { 0 } else { self.lines[1].div_ceil(self.size[0].max(1)) * self.of_lines() }
    }

    fn of_lines(&self) -> usize {
        self.width.div_ceil(self.size[1])
    }

    /// # Panics
    /// If there are not so many.
    pub fn piece(&self, number: usize) -> Piece {
        assert!(number < self.count(), "pieces are counted");
        let (line, first) = (number / self.of_lines() * self.size[0], number % self.of_lines() * self.size[1]);
        let lines = line..self.lines[1].min(line + self.size[0]);
        let width = self.size[1].min(self.width - first);
        let sums = self.line(line) + first..self.line(lines.end - 1) + first + width;
        Piece { sums, first: line * self.width + first, lines, width, pieces: *self }
    }

    /// Where the sums of a line begin.
    fn line(&self, line: usize) -> usize {
        line / self.lines[0] * self.apart[1] + line % self.lines[0] * self.apart[0]
    }
}

impl Piece {
    /// How many there are.
    pub fn positions(&self) -> usize {
        self.lines.len() * self.width
    }

    /// Writes the results of an output channel; there are as many zeros as positions.
    pub fn write(&self, kernel: &dyn Multiplier, sums: &mut [i32], zeros: &[i32], mut output: Output<'_>) {
        match (&mut output.destination, output.epilogue) {
            (Destination::I32(to), Epilogue::Sums) => self.each(sums, to.row(0), |sums, to| {
                to.iter_mut().zip(sums).for_each(|(to, sum)| _ = to.write(*sum));
            }),
            (Destination::F32(to), Epilogue::Dequantize { scale: Scalar(scale), addend, .. })
                if !matches!(addend, Some(ScalarOrPerColumn::PerColumn(_))) =>
            {
                let addend = match addend {
                    Some(Scalar(addend)) => Some(addend),
                    _ => None,
                };
                self.each(sums, to.row(0), |sums, to| kernel.rows().scaled(sums, scale, addend, to));
            }
            // Rounding takes instructions that not all processors have.
            _ => {
                self.close_gaps(sums);
                let terms = Terms { columns: zeros, weight: WeightTerm::Scalar(0), row_sums: &[0] };
                kernel.rows().epilogue(&sums[..zeros.len()], zeros.len(), &terms, output);
            }
        }
    }

    /// Where the sums of each line begin, among those of this piece.
    fn starts(&self) -> impl Iterator<Item = usize> {
        let first = self.pieces.line(self.lines.start);
        self.lines.clone().map(move |line| self.pieces.line(line) - first)
    }

    /// Writes what is made of the sums of each of its lines, or of all that have none between them.
    fn each<T>(&self, sums: &[i32], to: &mut [MaybeUninit<T>], made: impl Fn(&[i32], &mut [MaybeUninit<T>])) {
        let all = self.positions();
        if self.sums.len() == all {
            return made(&sums[..all], &mut to[..all]);
        }
        for (start, to) in self.starts().zip(to.chunks_exact_mut(self.width)) {
            made(&sums[start..][..self.width], to);
        }
    }

    /// Brings the sums of all positions together, at the beginning.
    fn close_gaps(&self, sums: &mut [i32]) {
        for (line, start) in self.starts().enumerate() {
            sums.copy_within(start..start + self.width, line * self.width);
        }
    }
}

/// The epilogue of one output channel, whose results are a row.
pub fn of_channel<'a>(epilogue: &Epilogue<'a>, x_scale: Option<f32>, j: usize) -> Epilogue<'a> {
    let of = |values: ScalarOrPerColumn<'_>| match values {
        Scalar(value) => value,
        ScalarOrPerColumn::PerColumn(values) => values[j],
    };
    let scale = |scale| Scalar(x_scale.map_or(of(scale), |factor| factor * of(scale)));
    match *epilogue {
        Epilogue::Sums => Epilogue::Sums,
        Epilogue::Dequantize { scale: all, addend, .. } => Epilogue::Dequantize {
            scale: scale(all),
            addend: addend.map(|addend| Scalar(of(addend))),
            elementwise: Elementwise::default(),
        },
        Epilogue::Requantize { scale: all, zero_point } => Epilogue::Requantize { scale: scale(all), zero_point },
    }
}
