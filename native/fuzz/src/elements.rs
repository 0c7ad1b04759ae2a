//! Any payload under a header and an index that are right, whatever is left out of it: constants as a whole, in both orders, and
//! rows of tables are those of the reference decoder, or are refused for its reason.

use std::mem::MaybeUninit;
use std::sync::Mutex;

use mcd_core::{Bound, EncodedWeight, Error, Kernel, Layout, Serial, VerifiedWeight, unpack};
use mcd_testkit::forge::forge;

use crate::decoder;
use crate::input::Input;
use crate::reach::reached;

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let Some(mut fields) = decoder::fields(&mut input) else { return };
    let (count, flip) = (usize::from(input.byte() % 12), input.word());
    fields.omissions = input.byte() & 3;
    let wanted: Vec<usize> = (0..count).map(|_| usize::from(input.byte())).collect();
    let mut forged = forge(&fields, &decoder::tiles(&fields, &mut input));
    if fields.omissions & 2 != 0 {
        without_padding(&mut forged.x2, usize::from(input.byte() % 64));
        forged.seal_all();
    }
    let Ok(parsed) = forged.parse() else { return };

    let scalar = Kernel::by_name("scalar").expect("it is everywhere");
    let expected = unpack(parsed, &forged.x2, scalar, &Serial);
    let (n, k) = (fields.n, fields.k);
    for kernel in Kernel::available() {
        let weight = VerifiedWeight::new(&forged.x2, &forged.index, &forged.info, kernel, 1);
        let (weight, expected) = match (weight, &expected) {
            (Ok(weight), Ok(expected)) => (weight, expected),
            (Err(error), Err(expected)) => {
                assert_eq!(error, *expected, "{kernel:?} refuses for another reason");
                continue;
            }
            (weight, expected) => panic!("{kernel:?} differs: {:?}, but {:?}", weight.err(), expected.as_ref().err()),
        };
        reached();
        let bound = weight.bind(&forged.x2).expect("it is as long");
        assert!(whole(&bound, Layout::Nk).as_ref() == Ok(expected), "{kernel:?}: rows");
        let turned: Vec<u8> = (0..k * n).map(|at| expected[at % n * k + at / n]).collect();
        assert!(whole(&bound, Layout::Kn) == Ok(turned), "{kernel:?}: columns");
        rows_are(&bound, &wanted, expected);
        // Bytes that changed after the check: nothing leaves its memory.
        let mut changed = forged.x2.clone();
        if let Some(at) = usize::from(flip).checked_rem(changed.len()) {
            changed[at] ^= (flip >> 8) as u8 | 1;
        }
        let _ = whole(&weight.bind(&changed).expect("it is as long"), Layout::Nk);
    }
}

/// The input that makes this weight, if it is small enough.
pub fn input(encoded: &EncodedWeight) -> Vec<u8> {
    let mut out = decoder::header(encoded);
    let rows = [0, 1, 15, 16, 200];
    out.extend([rows.len() as u8, 7, 9, encoded.x2[48]]);
    out.extend(rows);
    out.extend(decoder::stored(encoded));
    let padding = encoded.x2.len().next_multiple_of(64) - encoded.x2.len();
    out.push(padding as u8);
    out
}

/// Takes so many bytes from the end, as far as they are zero: inputs give the last tile in whole lines, as all others.
fn without_padding(x2: &mut Vec<u8>, most: usize) {
    let zeros = x2.iter().rev().take(most).take_while(|&&byte| byte == 0).count();
    x2.truncate(x2.len() - zeros);
}

fn whole(weight: &Bound<'_, VerifiedWeight>, layout: Layout) -> Result<Vec<u8>, Error> {
    let mut out = vec![MaybeUninit::new(0xa5); weight.n() * weight.k()];
    weight.decompress(layout, &mut out, &Serial)?;
    // SAFETY: all were initialised above.
    Ok(out.into_iter().map(|byte| unsafe { byte.assume_init() }).collect())
}

/// Rows that are asked for, whatever numbers they have, are those of the whole weight; others are refused.
fn rows_are(weight: &Bound<'_, VerifiedWeight>, wanted: &[usize], expected: &[u8]) {
    let (n, k) = (weight.n(), weight.k());
    let found = Mutex::new(vec![None; wanted.len() * k]);
    let result = weight.gather(wanted, &Serial, &|part| {
        assert_eq!(wanted[part.position], part.row);
        let mut found = found.lock().expect("no panics");
        for (place, &byte) in found[part.position * k + part.column..].iter_mut().zip(part.weights) {
            assert_eq!(place.replace(byte), None, "told twice");
        }
    });
    if wanted.iter().any(|&row| row >= n) {
        assert!(result.is_err());
        return;
    }
    result.expect("all rows are there");
    let rows = wanted.iter().flat_map(|&row| &expected[row * k..][..k]);
    assert!(found.into_inner().expect("no panics").iter().map(Option::as_ref).eq(rows.map(Some)));
}
