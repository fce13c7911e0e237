// What the header of an audio file says of it, and whether the file's end is there: as in deploy/frontend/audio_file.py.

const STREAMED = 0x7ffff000; // bytes: with this much or more as its size, a WAV was written to a pipe
const OGG_PAGE = 27 + 255 + 255 * 255; // bytes, at most

/** The number of frames where the encoder did not know it. */
export const UNKNOWN = -1;

/** {rate, bits, frames, isCut} of a WAV or a FLAC file; null if it is neither, or its header is damaged.
 *  Frames are those of a FLAC, and undefined for a WAV of known length. */
export function readHeader(view) {
    try {
        if (text(view, 0) === "fLaC") return readFlac(view);
        return text(view, 0) === "RIFF" && text(view, 8) === "WAVE" ? readWav(view) : null;
    } catch (error) {
        if (error instanceof RangeError) return null; // it ends before that
        throw error;
    }
}

/** Whether a file is an Ogg whose last page is not there: it would be marked as the last, and whole. */
export function isCutOgg(view) {
    if (view.byteLength < 4 || text(view, 0) !== "OggS") return false;
    let at = view.byteLength - 4;
    while (text(view, at) !== "OggS") at--;
    if (view.byteLength - at > OGG_PAGE || view.byteLength - at < 27) return true;
    const count = view.getUint8(at + 26);
    if (count === 0 || at + 27 + count > view.byteLength || !(view.getUint8(at + 5) & 4)) return true;
    let end = at + 27 + count;
    for (let i = 0; i < count; i++) end += view.getUint8(at + 27 + i);
    return end > view.byteLength;
}

const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));

function readFlac(view) {
    const packed = view.getUint32(18); // 20 bits of rate, 3 of channels, the upper 4 of bits less one
    const frames = (view.getUint8(21) & 15) * 2 ** 32 + view.getUint32(22);
    return { rate: packed >>> 12, bits: ((view.getUint16(20) >>> 4) & 31) + 1, frames: frames || UNKNOWN };
}

function readWav(view) {
    const format = findChunk(view, "fmt ");
    const header = { rate: view.getUint32(format + 12, true), bits: view.getUint16(format + 22, true) };
    const sound = findChunk(view, "data");
    const size = view.getUint32(sound + 4, true);
    const isStreamed = size === 0 ? sound + 8 < view.byteLength && !isChunks(view, sound + 8) : size >= STREAMED;
    if (isStreamed) return { ...header, frames: UNKNOWN };
    const end = Math.max(sound + 8 + size, 8 + view.getUint32(4, true));
    return { ...header, isCut: end > view.byteLength };
}

/** Where a chunk of a WAV begins. Raises RangeError where there is none. */
function findChunk(view, name) {
    let at = 12;
    while (text(view, at) !== name) at = nextChunk(view, at);
    return at;
}

function nextChunk(view, at) {
    const size = view.getUint32(at + 4, true);
    return at + 8 + size + (size % 2);
}

/** Whether what follows are chunks up to the end, and no sound. */
function isChunks(view, start) {
    let at = start;
    while (at < view.byteLength) {
        if (at + 8 > view.byteLength || !/^[ -~]{4}$/.test(text(view, at))) return false;
        at = nextChunk(view, at);
    }
    return at <= view.byteLength + 1;
}
