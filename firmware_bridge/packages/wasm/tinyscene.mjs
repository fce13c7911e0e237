// Acoustic scene classification from PCM, in browsers, Node, Deno and workers; no dependencies.
//
//     const scene = await Tinyscene.open();
//     for (const { label, probabilities } of scene.push(pcm)) console.log(label, Math.max(...probabilities));
//
// `pcm` is an Int16Array of mono sound at scene.sampleRate, of any length.

const READY = 1;

/** The bytes of a file, from the web or, in Node, from disk. */
async function read(source) {
    const url = new URL(source, globalThis.location?.href);
    if (url.protocol === "file:" && globalThis.process?.versions?.node) {
        const { readFile } = await import("node:fs/promises");
        return readFile(url);
    }
    const response = await fetch(url);
    if (!response.ok) throw new Error(`tinyscene: ${url}: ${response.status}`);
    return response.arrayBuffer();
}

export class Tinyscene {
    #wasm;
    #scene;
    #room;

    /** A new instance with its own memory, from the bytes of a module or its URL. Of several modules, the first that
     *  this engine supports is used: tinyscene.wasm needs 128-bit vectors, tinyscene_plain.wasm does not. */
    static async load(...modules) {
        for (const [index, module] of modules.entries()) {
            const isUrl = typeof module === "string" || module instanceof URL;
            const bytes = isUrl ? await read(module) : module;
            if (index < modules.length - 1 && !WebAssembly.validate(bytes)) continue;
            return new Tinyscene((await WebAssembly.instantiate(bytes)).instance.exports);
        }
    }

    /** A new instance with its own memory, from the modules beside this file. */
    static open() {
        return Tinyscene.load(
            new URL("./tinyscene.wasm", import.meta.url),
            new URL("./tinyscene_plain.wasm", import.meta.url),
        );
    }

    /** From the module's exports: use open or load instead. */
    constructor(wasm) {
        this.#wasm = wasm;
        this.#check(wasm.tinyscene_wasm_start());
        this.#scene = wasm.tinyscene_wasm_instance();
        this.#room = wasm.tinyscene_wasm_pcm_samples();
        this.sampleRate = wasm.tinyscene_wasm_sample_rate();
        this.mels = wasm.tinyscene_wasm_mels();
        this.frames = wasm.tinyscene_wasm_frames();
        this.labels = Array.from({ length: wasm.tinyscene_wasm_classes() }, (_, index) => this.#label(index));
    }

    /** Push an Int16Array of any length. Returns the decisions that it completed, often none; each has `label`, its
     *  `index` (of none of these: the number of labels), both by the model's decision rule if it has one, the integer `logits` of all classes (Int8Array), their `probabilities`, and its `features`: an
     *  Int8Array of `mels` bands, the lowest first, of `frames` values; or null if the module computes by time. */
    push(pcm) {
        if (!(pcm instanceof Int16Array)) throw new TypeError("tinyscene: push takes an Int16Array");
        const decisions = [];
        for (let start = 0; start < pcm.length; start += this.#room) {
            const block = pcm.subarray(start, start + this.#room);
            new Int16Array(this.#wasm.memory.buffer, this.#wasm.tinyscene_wasm_pcm()).set(block);
            for (let at = 0; at < block.length; at += this.#wasm.tinyscene_wasm_taken()) {
                const status = this.#check(this.#wasm.tinyscene_wasm_push(at, block.length - at));
                if (status === READY) decisions.push(this.#decide());
            }
        }
        return decisions;
    }

    /** Discard all samples: call it after a gap in the sound. */
    reset() {
        this.#check(this.#wasm.tinyscene_reset(this.#scene));
    }

    #decide() {
        this.#check(this.#wasm.tinyscene_run(this.#scene));
        const scores = this.#wasm.tinyscene_wasm_scores();
        const logits = this.#bytes(scores, this.labels.length);
        const held = this.#wasm.tinyscene_wasm_features();
        const features = held ? this.#bytes(held, this.mels * this.frames) : null;
        const best = this.#check(this.#wasm.tinyscene_best(this.#scene));
        const index = this.#check(this.#wasm.tinyscene_decision?.(this.#scene) ?? best);
        const scale = this.#wasm.tinyscene_wasm_logit_scale();
        const powers = Array.from(logits, (logit) => Math.exp(scale * (logit - logits[best])));
        const sum = powers.reduce((a, b) => a + b);
        const probabilities = powers.map((power) => power / sum);
        return { label: this.#label(index), index, logits, probabilities, features };
    }

    #bytes(at, count) {
        return new Int8Array(this.#wasm.memory.buffer, at, count).slice();
    }

    #check(status) {
        if (status < 0) throw new Error(`tinyscene: status ${status}`);
        return status;
    }

    #label(index) {
        const bytes = new Uint8Array(this.#wasm.memory.buffer, this.#wasm.tinyscene_label(index));
        return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
    }
}
