//! Keys and values into the cache.
//!
//! candle's `scatter_set` has one thread a column, which walks the rows one after another. On a GPU a kernel of our own stores every
//! number at once; it is compiled when the device is opened, and where that fails candle's operation serves.

use super::plan::Plan;
use candle_core::{Device, Result, Tensor};

/// Stores rows.
pub(super) struct Store {
    /// The kernel's PTX.
    #[cfg(feature = "candle-cuda")]
    kernel: Option<String>,
}

impl Store {
    #[cfg(feature = "candle-cuda")]
    pub fn on(device: &Device) -> Store {
        Store { kernel: device.as_cuda_device().ok().and_then(gpu::compile) }
    }

    #[cfg(not(feature = "candle-cuda"))]
    pub fn on(_: &Device) -> Store {
        Store {}
    }

    /// Writes the rows `x [T, width]` of a batch to their places in `cache [places, width]`.
    pub fn rows(&self, cache: &Tensor, x: &Tensor, plan: &Plan) -> Result<()> {
        #[cfg(feature = "candle-cuda")]
        if let Some(ptx) = &self.kernel {
            return cache.inplace_op3(x, &plan.places, &gpu::Rows { ptx });
        }
        cache.scatter_set(&plan.stores(cache.dims2()?.1)?, x, 0)
    }
}

#[cfg(feature = "candle-cuda")]
mod gpu {
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::cudarc::nvrtc::compile_ptx;
    use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
    use candle_core::{CpuStorage, DType, Error, InplaceOp3, Layout, Result};

    /// `store_16` and `store_32`.
    const SOURCE: &str = include_str!("../../../kernels/candle/store.cu");

    const MODULE: &str = "lumos-store";

    /// The kernel's PTX, or nothing where NVRTC fails or makes what the driver does not load: it may be newer than the driver.
    pub fn compile(device: &CudaDevice) -> Option<String> {
        let ptx = compile_ptx(SOURCE).ok()?.to_src();
        device.get_or_load_custom_func("store_16", MODULE, &ptx).ok()?;
        Some(ptx)
    }

    /// Cache, rows, places.
    pub struct Rows<'a> {
        pub ptx: &'a str,
    }

    impl Rows<'_> {
        fn launch<T: CudaDType + DeviceRepr>(
            &self,
            name: &str,
            (cache, cache_layout): (&mut CudaStorage, &Layout),
            (x, x_layout): (&CudaStorage, &Layout),
            (places, places_layout): (&CudaStorage, &Layout),
        ) -> Result<()> {
            let range = |layout: &Layout| layout.contiguous_offsets().ok_or_else(|| Error::Msg("rows to store must be contiguous".into()));
            let (to, from, at) = (range(cache_layout)?, range(x_layout)?, range(places_layout)?);
            let (rows, width) = x_layout.shape().dims2()?;
            if cache_layout.shape().dims2()?.1 != width || places_layout.shape().dims1()? != rows {
                return Err(Error::Msg(format!("{rows} rows of {width} to store do not fit their places or the cache")));
            }
            let kernel = x.device().get_or_load_custom_func(name, MODULE, self.ptx)?;
            let x = x.as_cuda_slice::<T>()?.slice(from.0..from.1);
            let places = places.as_cuda_slice::<u32>()?.slice(at.0..at.1);
            let mut cache = T::as_cuda_slice_mut(cache)?.slice_mut(to.0..to.1);
            let config = LaunchConfig::for_num_elems((rows * width) as u32);
            let (rows, width) = (rows as u32, width as u32);
            let mut arguments = kernel.builder();
            arguments.arg(&x).arg(&places).arg(&mut cache).arg(&rows).arg(&width);
            // SAFETY: the arguments are those of the kernel, and every place is a row of the cache.
            unsafe { arguments.launch(config) }.map(|_| ()).w()
        }
    }

    impl InplaceOp3 for Rows<'_> {
        fn name(&self) -> &'static str {
            "store-rows"
        }

        fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
            Err(Error::Msg("a kernel for a GPU".into()))
        }

        fn cuda_fwd(
            &self,
            cache: &mut CudaStorage,
            cache_layout: &Layout,
            x: &CudaStorage,
            x_layout: &Layout,
            places: &CudaStorage,
            places_layout: &Layout,
        ) -> Result<()> {
            let (to, from, at) = ((&mut *cache, cache_layout), (x, x_layout), (places, places_layout));
            match x.dtype() {
                DType::F16 => self.launch::<half::f16>("store_16", to, from, at),
                DType::BF16 => self.launch::<half::bf16>("store_16", to, from, at),
                DType::F32 => self.launch::<f32>("store_32", to, from, at),
                other => Err(Error::Msg(format!("no kernel stores {other:?}"))),
            }
        }
    }
}
