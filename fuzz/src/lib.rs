//! What the fuzz targets knock at. An ordinary test of the main crate knocks at the same doors.

pub mod doors;
