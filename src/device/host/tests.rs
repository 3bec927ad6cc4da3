use super::*;

/// `y[i] += a * x[i]` over `n` floats, one kernel in plain Rust.
struct Axpy;

impl HostKernels for Axpy {
    fn find(&self, name: &str) -> Option<usize> {
        ["axpy", "breaks"].iter().position(|&n| n == name)
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        Some(if handle == 0 { vec![8, 8, 4, 4] } else { vec![] })
    }

    unsafe fn launch(&self, handle: usize, _: Geometry, args: &[*const c_void]) -> std::result::Result<(), String> {
        if handle == 1 {
            return Err("an illegal address was read".into());
        }
        // SAFETY: the arguments are those of the tests below: two arrays of `n` floats, a factor and `n`.
        unsafe {
            let (x, y) = (*args[0].cast::<*const f32>(), *args[1].cast::<*mut f32>());
            let (a, n) = (*args[2].cast::<f32>(), *args[3].cast::<i32>() as usize);
            (0..n).for_each(|i| *y.add(i) += a * *x.add(i));
        }
        Ok(())
    }
}

const ONE: Geometry = Geometry { grid: [1, 1, 1], block: [32, 1, 1], shared: 0 };

fn device() -> Arc<dyn Device> {
    Arc::new(HostDevice::new(Axpy, 4096))
}

fn launch(device: &dyn Device, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
    // SAFETY: arrays of a test outlive it and are as long as it says; what is of another size is refused.
    unsafe { device.launch(kernel, geometry, args) }
}

fn replay(device: &dyn Device, graph: &Graph) {
    // SAFETY: as for the launches that were recorded.
    unsafe { device.replay(graph) }.unwrap();
}

#[test]
fn launches_and_graphs_run_in_order() {
    let device = device();
    let x = device.upload_new(&[1f32, 2.0, 3.0]).unwrap();
    let y = device.alloc(12).unwrap();
    let axpy = device.kernel("axpy").unwrap();
    let args = [Arg::from(&x), Arg::from(&y), 2f32.into(), 3i32.into()];
    device.fill(&y, 0, 12, Fill::float(1.0)).unwrap();
    launch(&*device, axpy, ONE, &args).unwrap();
    assert_eq!(device.download_vec::<f32>(&y, 0, 3).unwrap(), [3.0, 5.0, 7.0]);

    // A graph does nothing when recorded, and everything again each time.
    let graph = device.capture("twice", &mut || {
        device.fill(&y, 4, 8, Fill::float(0.5))?;
        launch(&*device, axpy, ONE, &args)?;
        device.copy(&y, 0, &x, 0, 4)?;
        launch(&*device, axpy, ONE, &args)
    });
    let graph = graph.unwrap();
    assert_eq!(device.download_vec::<f32>(&y, 0, 3).unwrap(), [3.0, 5.0, 7.0]);
    replay(&*device, &graph);
    // y = [3 + 2, 4.5, 6.5], x[0] = 5, y = [5 + 10, 4.5 + 4, 6.5 + 6]
    assert_eq!(device.download_vec::<f32>(&y, 0, 3).unwrap(), [15.0, 8.5, 12.5]);
    replay(&*device, &graph);
    assert_eq!(device.download_vec::<f32>(&y, 4, 2).unwrap(), [8.5, 12.5]);
    let counters = device.counters();
    assert_eq!((graph.launches, counters.launches, counters.replays, counters.replayed), (2, 1, 2, 4));
}

#[test]
fn memory_is_counted_and_its_end_is_an_error() {
    let device = device();
    let a = device.alloc(3000).unwrap();
    assert_eq!(a.address() % 256, 0);
    let error = device.alloc(1097).unwrap_err();
    assert!(error.is_out_of_memory() && error.to_string().contains("1097 bytes wanted"), "{error}");
    drop(a);
    let _b = device.alloc(4096).unwrap();
    let empty = device.alloc(0).unwrap();
    assert_eq!((empty.bytes(), empty.address() != 0), (0, true));
    let memory = device.memory().unwrap();
    assert_eq!((memory.free, memory.held, memory.peak), (0, 4096, 4096));
}

#[test]
fn a_fetched_copy_is_of_its_point_in_the_queue() {
    let device = device();
    let x = device.upload_new(&[1u32, 2, 3]).unwrap();
    let fetch = device.fetch(&x, 4, 8).unwrap();
    device.zero(&x).unwrap();
    let mut got = [0u32; 2];
    fetch.take(super::super::interface::bytes_of_mut(&mut got)).unwrap();
    assert_eq!(got, [2, 3]);
    assert!(matches!(device.fetch(&x, 8, 5).map(|_| ()), Err(DeviceError::Range { from: 8, to: 13, len: 12, .. })));
}

#[test]
fn misuse_is_refused() {
    let device = device();
    let x = device.alloc(16).unwrap();
    let axpy = device.kernel("axpy").unwrap();
    assert!(matches!(device.upload(&x, 12, &[0; 5]), Err(DeviceError::Range { from: 12, to: 17, len: 16, .. })));
    assert!(matches!(device.fill(&x, 2, 4, Fill::Word(1)), Err(DeviceError::Misuse(_))));
    assert!(matches!(device.kernel("axpi"), Err(DeviceError::UnknownKernel { .. })));
    let few = launch(&*device, axpy, ONE, &[Arg::from(&x)]).unwrap_err();
    assert!(few.to_string().contains("takes 4 values of 8, 8, 4, 4 bytes, it was given 1 values of 8 bytes"), "{few}");
    let wide = Geometry { block: [1025, 1, 1], ..ONE };
    let wide = launch(&*device, axpy, wide, &[]).unwrap_err();
    assert!(wide.to_string().contains("`axpy`") && wide.to_string().contains("1 to 1024 threads"), "{wide}");
    let inside = device.capture("g", &mut || device.alloc(4).map(|_| ()));
    assert!(matches!(inside, Err(DeviceError::Misuse(_))));
    let late = device.capture("g", &mut || device.kernel("axpy").and(device.kernel("breaks")).map(|_| ()));
    assert!(late.is_err_and(|e| e.to_string().contains("`breaks` was looked up")));
    let elsewhere = device.capture("g", &mut || std::thread::scope(|s| s.spawn(|| device.zero(&x)).join().expect("it gives an error")));
    assert!(elsewhere.is_err_and(|e| e.to_string().contains("from another thread while a graph is recorded")));
    device.alloc(4).expect("a failed recording leaves the device usable");
}

#[test]
fn a_fault_stays() {
    let device = device();
    let x = device.alloc(16).unwrap();
    device.set_scope("round 7, clients 0 to 9");
    let error = launch(&*device, device.kernel("breaks").unwrap(), ONE, &[]).unwrap_err();
    let text = error.to_string();
    assert!(error.is_sticky() && text.contains("`breaks`") && text.contains("round 7, clients 0 to 9"), "{text}");
    assert_eq!(device.zero(&x).unwrap_err(), error);
    assert_eq!(device.synchronize().unwrap_err(), error);
}
