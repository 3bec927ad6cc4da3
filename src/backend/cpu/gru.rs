//! Gated recurrent units over packed ragged sequences (Cho et al., EMNLP 2014; gate order reset, update, new as in
//! common libraries). All sequences of a step advance together, so that the recurrent product has many rows.

use super::gemm;
use super::rows::axpy;
use super::simd::{LANES, Simd, dispatch, load, store};

/// Packed sequences: sequence `s` owns the tokens `bounds[s]..bounds[s + 1]`.
pub struct Recurrence<'a> {
    /// Token bounds `[S + 1]`.
    pub bounds: &'a [u32],
    /// Width `d`.
    pub d: usize,
}

dispatch! {
    /// The gates `g [4d]` (r, z, n, h_n) and the next state `h [d]` of one token, from its two products `x` and `u [3d]` and the state `before [d]`.
    ///
    /// # Safety
    /// Every pointer is valid for its shape; `g` and `h` overlap nothing.
    unsafe fn unit(d: usize, x: *const f32, u: *const f32, before: *const f32, g: *mut f32, h: *mut f32) = unit_kernel
}

#[inline(always)]
unsafe fn unit_kernel<S: Simd>(d: usize, x: *const f32, u: *const f32, before: *const f32, g: *mut f32, h: *mut f32) {
    // SAFETY: the caller's promise; a tail is read and written in part.
    unsafe {
        let mut k = 0;
        while k + LANES <= d {
            eight_units::<S, false>(d, LANES, x.add(k), u.add(k), before.add(k), g.add(k), h.add(k));
            k += LANES;
        }
        if k < d {
            eight_units::<S, true>(d, d - k, x.add(k), u.add(k), before.add(k), g.add(k), h.add(k));
        }
    }
}

#[inline(always)]
unsafe fn eight_units<S: Simd, const TAIL: bool>(
    d: usize,
    n: usize,
    x: *const f32,
    u: *const f32,
    before: *const f32,
    g: *mut f32,
    h: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let get = |p: *const f32, gate: usize| load::<S, TAIL>(p.add(gate * d), n);
        let r = S::sigmoid(S::add(get(x, 0), get(u, 0)));
        let z = S::sigmoid(S::add(get(x, 1), get(u, 1)));
        let hn = get(u, 2);
        let new = S::tanh(S::fma(r, hn, get(x, 2)));
        for (gate, value) in [r, z, new, hn].into_iter().enumerate() {
            store::<S, TAIL>(g.add(gate * d), value, n);
        }
        let kept = S::mul(z, get(before, 0));
        store::<S, TAIL>(h, S::fma(S::sub(S::splat(1.0), z), new, kept), n);
    }
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
                    unit(d, x, u, previous.add(t * d), g, h.add(t * d));
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
