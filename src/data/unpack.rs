//! Compressed sources as streams: nothing is held but what the decoders need.

use std::io::{self, Read};

use super::zip::Member;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// How a source is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Zip,
}

impl Packing {
    /// Known by the first bytes or, so that a wrong file is named as such, by the ending of its name.
    pub fn of(head: &[u8], ending: &str) -> Packing {
        if head.starts_with(&[0x1f, 0x8b]) || ending == "gz" {
            Packing::Gzip
        } else if head.starts_with(&0xFD2F_B528u32.to_le_bytes()) || ending == "zst" {
            Packing::Zstd
        } else if head.starts_with(b"PK\x03\x04") || ending == "zip" {
            Packing::Zip
        } else {
            Packing::Plain
        }
    }

    /// Name of a compressed format.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Packing::Plain => None,
            Packing::Gzip => Some("gzip"),
            Packing::Zstd => Some("zstd"),
            Packing::Zip => Some("zip archive"),
        }
    }

    /// The unpacked stream; of a zip archive that of the file `member`, or of its only file.
    pub fn open(self, packed: impl Read + 'static, member: Option<&str>) -> Box<dyn Read> {
        match self {
            Packing::Plain => Box::new(packed),
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Zstd => Box::new(Frames { state: State::Between(packed) }),
            Packing::Zip => Box::new(Member::new(packed, member)),
        }
    }
}

/// Every frame of a zstd stream, skippable ones left out, content checksums verified.
struct Frames<R: Read> {
    state: State<R>,
}

/// A frame being unpacked; its first bytes, which say what it is, stand before the stream again.
type Frame<R> = StreamingDecoder<io::Chain<io::Cursor<Vec<u8>>, R>, FrameDecoder>;

enum State<R: Read> {
    Between(R),
    Inside(Box<Frame<R>>),
    Ended,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            // After an error nothing follows.
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(source) => match begin(source)? {
                    Some(state) => self.state = state,
                    None => return Ok(0),
                },
                State::Inside(mut decoder) => {
                    let n = decoder.read(out)?;
                    if n > 0 {
                        self.state = State::Inside(decoder);
                        return Ok(n);
                    }
                    let (source, frame) = decoder.into_parts();
                    let stored = frame.get_checksum_from_data();
                    if stored.is_some() && frame.get_calculated_checksum() != stored {
                        return Err(io::Error::other("its checksum is wrong"));
                    }
                    // The bytes before the stream are used up.
                    self.state = State::Between(source.into_inner().1);
                }
            }
        }
    }
}

/// What follows a frame: another one, a skippable one that is left out, or nothing.
fn begin<R: Read>(mut source: R) -> io::Result<Option<State<R>>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    match magic[..] {
        [] => Ok(None),
        [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut source.by_ref().take(length), &mut io::sink())? < length {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a skippable frame is cut short"));
            }
            Ok(Some(State::Between(source)))
        }
        _ => {
            let whole = io::Cursor::new(magic).chain(source);
            Ok(Some(State::Inside(Box::new(StreamingDecoder::new(whole).map_err(io::Error::other)?))))
        }
    }
}
