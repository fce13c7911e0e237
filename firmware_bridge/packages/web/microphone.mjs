// The microphone as int16 sound at the network's rate.
//
// The browser is asked for an AudioContext at that rate, and then resamples what the microphone gives. Where it does
// not, or lets no microphone into such a context (Firefox), the sound comes at the rate the browser likes and is
// resampled here. A scene is in the faint and steady part of a sound, so all that cleans speech is switched off.
import { toPcm } from "./recording.mjs";
import { Resampler } from "./resample.mjs";

const LATE = 2; // seconds that sound may wait for a slow machine; older sound is let go, so that none piles up
const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** What the browser's refusals mean. */
const REFUSALS = {
    NotAllowedError: "the microphone was not allowed. Allow it in the browser's settings of this page, and try again",
    NotFoundError: "no microphone was found. Plug one in, or choose a file",
    NotReadableError: "the microphone cannot be read. Another program may be using it",
};

/** A microphone that cannot be used, for a reason that is told to the reader. */
export class NoMicrophone extends Error {}

/** Listen: `onSound` gets an Int16Array each time, its loudest sample (0 to 1) and whether sound was let go before it;
 *  `onEnd` is called if the microphone is lost. `workletUrl` is of worklet.js. Returns {contextRate, stop}.
 *  Raises NoMicrophone. */
export async function listen(sceneRate, workletUrl, onSound, onEnd) {
    if (!navigator.mediaDevices || !globalThis.AudioWorkletNode)
        throw new NoMicrophone("this browser gives microphones only to pages from https, localhost or the disk");
    let stream;
    try {
        stream = await navigator.mediaDevices.getUserMedia({ audio: { ...AS_IT_IS, channelCount: 1 } });
    } catch (error) {
        throw new NoMicrophone(REFUSALS[error.name] ?? `the microphone cannot be used (${error.message})`);
    }
    try {
        const { context, source } = openContext(stream, sceneRate);
        const tap = await connectTap(context, source, workletUrl);
        const resampler = context.sampleRate === sceneRate ? null : new Resampler(context.sampleRate, sceneRate);
        let isGap = false;
        tap.port.onmessage = ({ data: { sound, time } }) => {
            if (context.currentTime - time > LATE) {
                isGap = true;
                return;
            }
            const loudest = sound.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
            onSound(toPcm(resampler ? resampler.push(sound) : sound), loudest, isGap);
            isGap = false;
        };
        stream.getTracks()[0].onended = onEnd;
        await context.resume();
        return { contextRate: context.sampleRate, stop: () => close(stream, tap, context) };
    } catch (error) {
        for (const track of stream.getTracks()) track.stop();
        throw error;
    }
}

function openContext(stream, sceneRate) {
    for (const options of [{ sampleRate: sceneRate }, {}]) {
        let context;
        try {
            context = new AudioContext(options);
            return { context, source: context.createMediaStreamSource(stream) };
        } catch (error) {
            context?.close();
            if (error.name !== "NotSupportedError") throw error;
        }
    }
    throw new NoMicrophone("this browser cannot read the microphone into a page");
}

async function connectTap(context, source, workletUrl) {
    await context.audioWorklet.addModule(workletUrl);
    const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 1 });
    source.connect(tap).connect(context.destination); // silence: what leads nowhere may not be run
    return tap;
}

function close(stream, tap, context) {
    tap.port.onmessage = null;
    for (const track of stream.getTracks()) {
        track.onended = null;
        track.stop();
    }
    context.close();
}
