//! Gated recurrent units over packed ragged sequences (Cho et al., EMNLP 2014; gate order reset, update, new as in
//! common libraries). All sequences of a step advance together, so that the recurrent product has many rows.

use super::gemm;
use super::rows::axpy;

/// Packed sequences: sequence `s` owns the tokens `bounds[s]..bounds[s + 1]`.
pub struct Recurrence<'a> {
    /// Token bounds `[S + 1]`.
    pub bounds: &'a [u32],
    /// Width `d`.
    pub d: usize,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Recurrence<'_> {
    fn sequences(&self) -> usize {
        self.bounds.len() - 1
    }

    fn longest(&self) -> usize {
        self.bounds.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }

    /// Numbers of scratch that both directions need.
    pub fn scratch_len(&self) -> usize {
        self.sequences() * 5 * self.d
    }

    /// Tokens at `time`, one for every sequence that is long enough.
    fn at(&self, time: usize) -> impl Iterator<Item = usize> + '_ {
        self.bounds.windows(2).filter_map(move |w| {
            let t = w[0] as usize + time;
            (t < w[1] as usize).then_some(t)
        })
    }

    /// `r = sig(x_r + h_r)`, `z = sig(x_z + h_z)`, `n = tanh(x_n + r h_n)`, `h' = (1 - z) n + z h`, where `x = xw [T, 3d]`
    /// already holds the input product and `h_* = h wh + bh`. Writes `h [T, d]`, `gates [T, 4d]` (r, z, n, h_n) and
    /// `previous [T, d]` (the state before each token).
    ///
    /// # Safety
    /// Every pointer is valid for its shape, `wh [d, 3d]`, `bh [3d]`, `scratch` for [`Recurrence::scratch_len`].
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn forward(
        &self,
        xw: *const f32,
        wh: *const f32,
        bh: *const f32,
        h: *mut f32,
        gates: *mut f32,
        previous: *mut f32,
        scratch: *mut f32,
    ) {
        let d = self.d;
        for time in 0..self.longest() {
            let mut n = 0;
            // SAFETY: one state row and one product row a sequence fit the scratch.
            unsafe {
                for t in self.at(time) {
                    let p = previous.add(t * d);
                    if time == 0 {
                        std::ptr::write_bytes(p, 0, d);
                    } else {
                        std::ptr::copy_nonoverlapping(h.add((t - 1) * d), p, d);
                    }
                    std::ptr::copy_nonoverlapping(p, scratch.add(n * d), d);
                    n += 1;
                }
                let hw = scratch.add(self.sequences() * d);
                gemm::linear(n, d, 3 * d, scratch, wh, bh, hw);
                for (i, t) in self.at(time).enumerate() {
                    let (x, u, g) = (xw.add(t * 3 * d), hw.add(i * 3 * d), gates.add(t * 4 * d));
                    for k in 0..d {
                        let r = sigmoid(*x.add(k) + *u.add(k));
                        let z = sigmoid(*x.add(d + k) + *u.add(d + k));
                        let hn = *u.add(2 * d + k);
                        let new = (*x.add(2 * d + k) + r * hn).tanh();
                        *g.add(k) = r;
                        *g.add(d + k) = z;
                        *g.add(2 * d + k) = new;
                        *g.add(3 * d + k) = hn;
                        *h.add(t * d + k) = (1.0 - z) * new + z * *previous.add(t * d + k);
                    }
                }
            }
        }
    }

    /// Backward of [`Recurrence::forward`]: from `dh [T, d]` (overwritten on the way) to `dxw [T, 3d]` and `dhw [T, 3d]`,
    /// the gradients of the two products. `wt [3d, d]` is the recurrent weight transposed.
    ///
    /// # Safety
    /// As [`Recurrence::forward`].
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn backward(
        &self,
        wt: *const f32,
        gates: *const f32,
        previous: *const f32,
        dh: *mut f32,
        dxw: *mut f32,
        dhw: *mut f32,
        scratch: *mut f32,
    ) {
        let d = self.d;
        for time in (0..self.longest()).rev() {
            let mut n = 0;
            // SAFETY: as in `forward`; a sequence's last token comes first, so dh of a token is complete when it is read.
            unsafe {
                let back = scratch.add(self.sequences() * 3 * d);
                for t in self.at(time) {
                    let (g, dx, du) = (gates.add(t * 4 * d), dxw.add(t * 3 * d), dhw.add(t * 3 * d));
                    for k in 0..d {
                        let (r, z, new, hn) = (*g.add(k), *g.add(d + k), *g.add(2 * d + k), *g.add(3 * d + k));
                        let up = *dh.add(t * d + k);
                        let dz = up * (*previous.add(t * d + k) - new) * z * (1.0 - z);
                        let dn = up * (1.0 - z) * (1.0 - new * new);
                        let dr = dn * hn * r * (1.0 - r);
                        *dx.add(k) = dr;
                        *dx.add(d + k) = dz;
                        *dx.add(2 * d + k) = dn;
                        *du.add(k) = dr;
                        *du.add(d + k) = dz;
                        *du.add(2 * d + k) = dn * r;
                    }
                    std::ptr::copy_nonoverlapping(du, scratch.add(n * 3 * d), 3 * d);
                    n += 1;
                }
                if time == 0 {
                    break;
                }
                gemm::linear(n, 3 * d, d, scratch, wt, std::ptr::null(), back);
                for (i, t) in self.at(time).enumerate() {
                    let before = dh.add((t - 1) * d);
                    axpy(d, 1.0, back.add(i * d), before);
                    for k in 0..d {
                        *before.add(k) += *dh.add(t * d + k) * *gates.add(t * 4 * d + d + k);
                    }
                }
            }
        }
    }
}
