//! One file of a zip archive as a stream, found by the headers that stand before each file.

use std::io::{self, BufRead, BufReader, Read};

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

/// Bytes of a file's header after its signature and before its name.
const FIXED: usize = 26;

/// Longest name or extra field is 64 KiB by its length's type; more of them than this is no archive of data.
const MOST_FILES: usize = 100_000;

/// A file of an archive, with its checksum verified at its end.
pub(super) struct Member {
    state: State,
    wanted: Option<String>,
    crc: Crc,
}

type Packed = BufReader<Box<dyn Read>>;

enum State {
    Before(Packed),
    Inside(Header, Content),
    Ended,
}

/// What stands before a file.
struct Header {
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    name: String,
}

enum Content {
    Stored(io::Take<Packed>),
    Deflated(Box<DeflateDecoder<Packed>>),
}

impl Content {
    fn packed(self) -> Packed {
        match self {
            Content::Stored(rest) => rest.into_inner(),
            Content::Deflated(decoder) => decoder.into_inner(),
        }
    }
}

impl Read for Content {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Content::Stored(rest) => rest.read(out),
            Content::Deflated(decoder) => decoder.read(out),
        }
    }
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Member {
    /// The file `wanted` of the archive `packed`, or its only one.
    pub fn new(packed: impl Read + 'static, wanted: Option<&str>) -> Member {
        let packed: Box<dyn Read> = Box::new(packed);
        Member { state: State::Before(BufReader::new(packed)), wanted: wanted.map(str::to_owned), crc: Crc::new() }
    }
}

/// The next file's header; `None` behind the last file.
fn header(packed: &mut Packed) -> io::Result<Option<Header>> {
    let mut signature = Vec::new();
    packed.by_ref().take(4).read_to_end(&mut signature)?;
    if signature != *b"PK\x03\x04" {
        return Ok(None);
    }
    let mut fixed = [0; FIXED];
    packed.read_exact(&mut fixed)?;
    let short = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let mut name = vec![0; short(22).into()];
    packed.read_exact(&mut name)?;
    let mut extra = vec![0; short(24).into()];
    packed.read_exact(&mut extra)?;
    let mut size = u64::from(long(14));
    if long(14) == u32::MAX {
        size = zip64_size(&extra, long(18) == u32::MAX).ok_or_else(|| wrong("a size of 64 bits is missing"))?;
    }
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Some(Header { flags: short(2), method: short(4), crc: long(10), packed: size, name }))
}

/// The packed size in an extra field of archives beyond 4 GiB.
fn zip64_size(extra: &[u8], both: bool) -> Option<u64> {
    let mut rest = extra;
    while rest.len() >= 4 {
        let (id, length) = (u16::from_le_bytes([rest[0], rest[1]]), usize::from(u16::from_le_bytes([rest[2], rest[3]])));
        let field = rest.get(4..4 + length)?;
        if id == 1 {
            let at = if both { 8 } else { 0 };
            return Some(u64::from_le_bytes(field.get(at..at + 8)?.try_into().ok()?));
        }
        rest = &rest[4 + length..];
    }
    None
}

fn open(packed: Packed, header: &Header) -> io::Result<Content> {
    if header.flags & 1 != 0 {
        return Err(wrong(format!("`{}` is encrypted", header.name)));
    }
    match header.method {
        0 if header.flags & 8 != 0 => Err(wrong(format!("`{}` is stored without its size", header.name))),
        0 => Ok(Content::Stored(packed.take(header.packed))),
        8 => Ok(Content::Deflated(Box::new(DeflateDecoder::new(packed)))),
        other => Err(wrong(format!("`{}` is packed by method {other}; deflate is read", header.name))),
    }
}

/// Skips the descriptor behind a file whose header has no size, if there is one; its checksum.
fn descriptor(packed: &mut Packed) -> io::Result<u32> {
    let mut word = [0; 4];
    packed.read_exact(&mut word)?;
    if word == *b"PK\x07\x08" {
        packed.read_exact(&mut word)?;
    }
    let crc = u32::from_le_bytes(word);
    // Two sizes of 4 or of 8 bytes: what follows them is a signature.
    let mut sizes = [0; 8];
    packed.read_exact(&mut sizes)?;
    if !packed.fill_buf()?.starts_with(b"PK") {
        packed.read_exact(&mut sizes)?;
    }
    Ok(crc)
}

impl Member {
    /// Goes to the wanted file.
    fn find(&mut self, mut packed: Packed) -> io::Result<()> {
        let mut met = Vec::new();
        while let Some(header) = header(&mut packed)? {
            let wanted = self.wanted.as_ref().is_none_or(|wanted| *wanted == header.name);
            if wanted && !header.name.ends_with('/') {
                let content = open(packed, &header)?;
                self.state = State::Inside(header, content);
                return Ok(());
            }
            let mut content = open(packed, &header)?;
            io::copy(&mut content, &mut io::sink())?;
            packed = content.packed();
            if header.flags & 8 != 0 && header.method == 8 {
                descriptor(&mut packed)?;
            }
            met.push(header.name);
            if met.len() > MOST_FILES {
                return Err(wrong("too many files"));
            }
        }
        let wanted = self.wanted.as_deref().unwrap_or("any file");
        met.truncate(20);
        Err(wrong(format!("it does not hold `{wanted}`; it holds: {}", met.join(", "))))
    }

    /// The end of the file: its checksum, and the rest of the archive.
    fn end(&mut self, header: &Header, content: Content) -> io::Result<()> {
        let mut packed = content.packed();
        let stored = if header.flags & 8 != 0 && header.method == 8 { descriptor(&mut packed)? } else { header.crc };
        if stored != self.crc.sum() {
            return Err(wrong(format!("the checksum of `{}` is wrong", header.name)));
        }
        let next = self::header(&mut packed)?.filter(|next| self.wanted.is_none() && !next.name.ends_with('/'));
        if let Some(next) = next {
            let message = format!(
                "it holds several files, `{}` and `{}` among them; name one behind the archive, as in ARCHIVE.zip/{}",
                header.name, next.name, header.name
            );
            return Err(wrong(message));
        }
        // Read to its end, so that the checksum of the archive is that of the whole.
        io::copy(&mut packed, &mut io::sink()).map(drop)
    }
}

impl Read for Member {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        // After an error nothing follows.
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(0),
            State::Before(packed) => {
                self.find(packed)?;
                self.read(out)
            }
            State::Inside(header, mut content) => {
                let n = content.read(out)?;
                if n > 0 {
                    self.crc.update(&out[..n]);
                    self.state = State::Inside(header, content);
                    return Ok(n);
                }
                self.end(&header, content)?;
                Ok(0)
            }
        }
    }
}
