// An audio file as int16 clips of equal length: cut, mixed down, resampled and rounded exactly as in deploy/frontend/audio.py.
//
// The browser decodes. It would also resample, with a filter of its own, so it is asked for the file's own rate, which
// is read from the headers of WAV and FLAC only. It scales integers to floats, in some browsers by 32767 where they are
// positive, so the integers of the file are restored. Where that is not possible, a note says so.
import { isCutOgg, readHeader, UNKNOWN } from "./header.mjs";
import { Resampler, roundToEven } from "./resample.mjs";

const FULL_SCALE = 32768;
const CANCELLED = "its channels cancel each other: the first is used where they do";
const CANCELLING = 16; // channels cancel each other if they are this many times louder than their mean
const LARGEST = 64 * 2 ** 20; // bytes; decoded, four times as many
const DECODABLE_RATES = [3000, 768000]; // Hz, that the Web Audio API promises

/** A file that cannot be used; the message says why. */
export class Unusable extends Error {}

/** A File, decoded: {channels: [Float32Array], rate, notes}. Raises Unusable. */
export async function readRecording(file, sceneRate, clipSamples = sceneRate) {
    if (file.size === 0) throw new Unusable("the file is empty");
    if (file.size > LARGEST) throw new Unusable(`larger than ${LARGEST / 2 ** 20} MB: cut it into parts`);
    const bytes = await file.arrayBuffer();
    const view = new DataView(bytes);
    const header = readHeader(view);
    const isCut = header?.isCut || isCutOgg(view);
    if (header && !(header.rate >= DECODABLE_RATES[0] && header.rate <= DECODABLE_RATES[1]))
        throw new Unusable(`its sample rate of ${header.rate} Hz cannot be used`);
    const rate = header?.rate ?? sceneRate;
    let decoded;
    try {
        decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
    } catch {
        throw new Unusable("not an audio file that this browser can read: try WAV or FLAC");
    }
    // A clip in which a FLAC ends before its header says is left out, unless it is the first.
    const isShort = decoded.length < header?.frames;
    const clip = sourceSamples(clipSamples, rate, sceneRate);
    const length = isShort && decoded.length > clip ? decoded.length - (decoded.length % clip) : decoded.length;
    const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) =>
        decoded.getChannelData(index).subarray(0, length),
    );
    if (length === 0) throw new Unusable("holds no samples");
    if (channels.some((samples) => !samples.every(Number.isFinite))) throw new Unusable("holds NaN or infinite samples");
    const notes = [];
    const seconds = (length / rate).toFixed(2);
    if (isShort) notes.push(`damaged: ends before its header says; the first ${seconds} s are used`);
    else if (header?.frames === UNKNOWN) notes.push(`its header gives no length: ${seconds} s are there`);
    else if (isCut) notes.push(`truncated: ${seconds} s are left`);
    if (!header) notes.push("decoded and resampled by the browser: the scores may differ a little from the command line's");
    else if (header.bits <= 16 && !restore(channels, 2 ** (header.bits - 1)))
        notes.push("decoded inexactly by the browser: the scores may differ a little from the command line's");
    if (channels.length > 1) notes.push(`${channels.length} channels mixed down`);
    return { channels, rate, notes };
}

/** Restore integers, stored as multiples of 1 / `full`, in place, whichever way the browser scaled them. */
function restore(channels, full) {
    const scale = [full, full - 1].find((positive) =>
        channels.every((samples) =>
            samples.every((value) => {
                const steps = value * (value > 0 ? positive : full);
                return Math.abs(steps - Math.round(steps)) < 0.02;
            }),
        ),
    );
    if (scale === undefined) return false;
    for (const samples of channels)
        for (let i = 0; i < samples.length; i++)
            samples[i] = Math.round(samples[i] * (samples[i] > 0 ? scale : full)) / full;
    return true;
}

/** The fewest samples at `rate` Hz that `samples` at `sceneRate` Hz come of. */
function sourceSamples(samples, rate, sceneRate) {
    return Math.ceil((samples * rate) / sceneRate);
}

/** The clips of a recording, each an Int16Array of `clipSamples`; may add to `recording.notes`. */
export function* makeClips(recording, sceneRate, clipSamples = sceneRate) {
    const { channels, rate, notes } = recording;
    const length = channels[0].length;
    const size = sourceSamples(clipSamples, rate, sceneRate);
    const rest = length % size;
    const count = Math.floor(length / size) + (2 * rest >= size || length < size ? 1 : 0);
    const words = clipSamples === sceneRate ? "one second" : `${+(clipSamples / sceneRate).toPrecision(6)} seconds`;
    const resampler = rate === sceneRate ? null : new Resampler(rate, sceneRate);
    for (let index = 0; index < count; index++) {
        const part = channels.map((samples) => samples.subarray(index * size, (index + 1) * size));
        const mean = mixDown(part);
        const cancels = part.length > 1 && CANCELLING * peak([mean]) < peak(part);
        if (cancels && !notes.includes(CANCELLED)) notes.push(CANCELLED);
        const mono = cancels ? part[0] : mean;
        if (mono.length < size) notes.push(`the last ${(mono.length / rate).toFixed(2)} s padded to ${words}`);
        const signal = resampler ? resampler.whole(mono) : mono;
        if (!notes.includes("clipped at full scale") && signal.some((value) => Math.abs(value) > 1))
            notes.push("clipped at full scale");
        const clip = new Int16Array(clipSamples);
        clip.set(toPcm(signal.subarray(0, clipSamples)));
        yield clip;
    }
}

/** Channels, Float32Array each -> their mean: added in float64, one after the other, and rounded to float32. */
export function mixDown(channels) {
    if (channels.length === 1) return channels[0];
    const total = Float64Array.from(channels[0]);
    for (const samples of channels.slice(1)) for (let i = 0; i < total.length; i++) total[i] += samples[i];
    return Float32Array.from(total, (sum) => sum / channels.length);
}

function peak(channels) {
    return channels.reduce((most, samples) => samples.reduce((max, value) => Math.max(max, Math.abs(value)), most), 0);
}

/** Floats within +-1 -> int16, a tie to the even one, clipped at full scale. */
export function toPcm(samples) {
    return Int16Array.from(samples, (value) =>
        roundToEven(Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, value * FULL_SCALE))),
    );
}
