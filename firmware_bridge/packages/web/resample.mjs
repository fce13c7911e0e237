// The resampler of deploy/frontend/resample.py, step by step: torchaudio's windowed sinc in integers that float64 holds
// exactly, so that a recording becomes the same samples here as there. The reasons are given in that file.

const ZERO_CROSSINGS = 6;
const ROLLOFF = 0.99;
const SAMPLE_ONE = 2 ** 23;
const LARGEST_SAMPLE = 4 * SAMPLE_ONE;
const TAP_ONE = 2 ** 24;
const SINE = Array.from({ length: 11 }, (_, k) => (-1) ** k / factorial(2 * k + 1)).reverse();
const COSINE = Array.from({ length: 12 }, (_, k) => (-1) ** k / factorial(2 * k)).reverse();

function factorial(n) {
    return n > 1 ? n * factorial(n - 1) : 1;
}

function greatestCommonDivisor(a, b) {
    return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** The nearest integer, a tie to the even one. */
export function roundToEven(value) {
    const below = Math.floor(value);
    const above = value - below;
    return above > 0.5 || (above === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

/** A polynomial in x^2 by Horner's rule. */
function series(coefficients, x) {
    const square = x * x;
    return coefficients.reduce((total, coefficient) => total * square + coefficient);
}

function sinc(t) {
    if (t === 0) return 1;
    const nearest = roundToEven(t);
    const angle = (t - nearest) * Math.PI;
    return (angle * series(SINE, angle) * (nearest % 2 === 0 ? 1 : -1)) / (t * Math.PI);
}

/** The filter's taps within its zero crossings, for each of `target` phases: the first one's place, and the taps. */
function sincFilter(source, target, width) {
    const base = Math.min(source, target) * ROLLOFF;
    return Array.from({ length: target }, (_, index) => {
        const phase = Math.fround(-index / target);
        const centre = Math.floor((index * source) / target);
        const taps = [];
        let first = null;
        for (let tap = centre - width; tap <= centre + width + 1; tap++) {
            const t = (phase + tap / source) * base;
            if (Math.abs(t) >= ZERO_CROSSINGS) continue;
            first ??= tap;
            const hann = series(COSINE, t * (Math.PI / (2 * ZERO_CROSSINGS)));
            taps.push(roundToEven(((sinc(t) * (hann * hann) * base) / source) * TAP_ONE));
        }
        return { first, taps: Float64Array.from(taps) };
    });
}

/** A stream of float samples at one rate to one at another, in steps of the least whole number of both. */
export class Resampler {
    #source;
    #target;
    #width;
    #filter;
    #held; // the samples that the next step still needs, as integers

    constructor(sourceRate, targetRate) {
        const divisor = greatestCommonDivisor(sourceRate, targetRate);
        this.#source = sourceRate / divisor;
        this.#target = targetRate / divisor;
        this.#width = Math.ceil((ZERO_CROSSINGS * this.#source) / (Math.min(this.#source, this.#target) * ROLLOFF));
        this.#filter = sincFilter(this.#source, this.#target, this.#width);
        this.#held = new Float64Array(this.#width); // silence comes before the first
    }

    /** Take a Float32Array; the samples that it completes, Float64Array. */
    push(samples) {
        const reach = this.#source + 2 * this.#width + 1;
        const sound = new Float64Array(this.#held.length + samples.length);
        sound.set(this.#held);
        for (let i = 0; i < samples.length; i++) sound[this.#held.length + i] = toInteger(samples[i]);
        const steps = Math.max(0, Math.floor((sound.length - reach) / this.#source) + 1);
        const made = new Float64Array(steps * this.#target);
        for (let step = 0, at = 0; step < steps; step++) {
            const origin = step * this.#source + this.#width;
            for (const { first, taps } of this.#filter) made[at++] = weightedSum(sound, origin + first, taps);
        }
        this.#held = sound.slice(steps * this.#source);
        return made;
    }

    /** A signal by itself, with silence on both sides: ceil(samples * target / source) samples, and no state is left. */
    whole(signal) {
        const padded = new Float32Array(signal.length + 2 * this.#source + 2 * this.#width + 1);
        padded.set(signal);
        const made = this.push(padded).slice(0, Math.ceil((signal.length * this.#target) / this.#source));
        this.#held = new Float64Array(this.#width);
        return made;
    }
}

function toInteger(sample) {
    return Math.max(-LARGEST_SAMPLE, Math.min(LARGEST_SAMPLE, roundToEven(sample * SAMPLE_ONE)));
}

function weightedSum(sound, start, taps) {
    let sum = 0;
    for (let k = 0; k < taps.length; k++) sum += sound[start + k] * taps[k];
    return sum / (SAMPLE_ONE * TAP_ONE);
}
