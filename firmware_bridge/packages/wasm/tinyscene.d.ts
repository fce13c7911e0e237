/** A decision on the last window of sound. */
export interface Decision {
    /** The name of `index`. */
    label: string;
    /** The class decided on, by the model's decision rule if it has one; of none of these: the number of labels. */
    index: number;
    /** The integer logits of all classes. */
    logits: Int8Array;
    /** The probabilities of all classes. */
    probabilities: number[];
    /** The log-mel of the window: `mels` bands, the lowest first, of `frames` values. */
    features: Int8Array;
}

export class Tinyscene {
    /** A new instance with its own memory, from the bytes of a module or its URL. Of several modules, the first that this
     *  engine supports is used: tinyscene.wasm needs 128-bit vectors, tinyscene_plain.wasm does not. */
    static load(...modules: (string | URL | BufferSource)[]): Promise<Tinyscene>;

    /** A new instance with its own memory, from the modules beside tinyscene.mjs. */
    static open(): Promise<Tinyscene>;

    /** Samples a second. */
    readonly sampleRate: number;
    readonly mels: number;
    readonly frames: number;
    readonly labels: string[];

    /** Push mono sound of any length. Returns the decisions that it completed, often none. */
    push(pcm: Int16Array): Decision[];

    /** Discard all samples: call it after a gap in the sound. */
    reset(): void;

    private constructor();
}
