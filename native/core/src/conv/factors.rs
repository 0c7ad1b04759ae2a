//! Weights as 16-bit numbers, less their zero points.

use crate::aligned::Aligned;
use crate::codec::WeightType;
use crate::decoder::Bound;
use crate::error::{Error, resize};
use crate::gemm::{PreparedWeight, ZeroPoint};
use crate::parallel::{Parallel, run_all};
use crate::shared::Shared;

/// Weights that are worth a task.
const TASK: usize = 1 << 18;

impl Bound<'_, PreparedWeight> {
    /// All weights (n, k) less their zero points, and a zero behind each row where k is odd. `rows` is memory for them as they are.
    pub(super) fn factors(
        &self,
        zero_point: ZeroPoint<'_>,
        rows: &mut Aligned<u8>,
        factors: &mut Vec<i16>,
        pool: &dyn Parallel,
    ) -> Result<(), Error> {
        let zero_point = |j: usize| match zero_point {
            ZeroPoint::None => 0,
            ZeroPoint::Scalar(zero_point) => zero_point as i16,
            ZeroPoint::PerColumn(each) => each[j] as i16,
        };
        let (k, n, stride) = (self.k(), self.n(), self.write_rows(rows, pool)?);
        let of_a_row = k.next_multiple_of(2);
        resize(factors, n.saturating_mul(of_a_row), "weights less their zero points")?;
        let (rows, to) = (&rows[..], Shared::new(factors));
        let tasks = (n * k / TASK).clamp(1, pool.threads());
        run_all(pool, tasks, |task| {
            for j in n * task / tasks..n * (task + 1) / tasks {
                // SAFETY: there are n rows, and this one is this task's.
                let to = unsafe { to.part(j * of_a_row, of_a_row) };
                less(&rows[j * stride..][..k], self.weight_type(), zero_point(j), to);
                to[k..].fill(0);
            }
            Ok(())
        })
    }
}

/// Weights as numbers, less a zero point.
fn less(weights: &[u8], weight_type: WeightType, zero_point: i16, to: &mut [i16]) {
    let each = to.iter_mut().zip(weights);
    match weight_type {
        WeightType::U8 => each.for_each(|(to, &weight)| *to = i16::from(weight).wrapping_sub(zero_point)),
        WeightType::I8 => {
            each.for_each(|(to, &weight)| *to = i16::from(weight.cast_signed()).wrapping_sub(zero_point));
        }
    }
}
