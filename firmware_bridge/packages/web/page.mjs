// The page: two ways in, the microphone and a file, and one view of a decision for both.
import { listen, NoMicrophone } from "./microphone.mjs";
import { drawLogMel, labelBands } from "./picture.mjs";
import { makeClips, readRecording, Unusable } from "./recording.mjs";
import { Tinyscene } from "./tinyscene.mjs";

const DECISIONS_TIMED = 50; // the last ones, whose median is shown

const $ = (id) => document.getElementById(id);
const model = JSON.parse($("model").textContent);
const clipWords = model.clip === 1 ? "second" : `${model.clip} seconds`;
const rows = []; // of the table of scores: {row, bar, share}
const times = []; // ms that the last decisions took to compute
let scene; // the network with its front end
let microphone = null; // what listens, if anything does
let turn = 0; // counts what the reader asked for: what was asked earlier stops
let result = null; // of the file, to be saved

const readable = (label) => label.replaceAll("_", " ");
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const best = (scores) => scores.indexOf(Math.max(...scores));
const nameOf = (index) => readable(scene.labels[index] ?? "none of these");

function say(text, isFault = false) {
    $("status").textContent = text;
    $("status").classList.toggle("fault", isFault);
}

function makeScores() {
    for (const label of scene.labels) {
        const row = $("scores").insertRow();
        const name = document.createElement("th");
        name.scope = "row";
        name.textContent = readable(label);
        const bar = document.createElement("span");
        bar.className = "bar";
        const share = document.createElement("span");
        share.className = "share";
        row.append(name);
        row.insertCell().append(bar);
        row.insertCell().append(share);
        rows.push({ row, bar, share });
    }
}

/** Show the scores of a clip, or of a whole file, and the class that is decided on. */
function showScores(scores, about, index) {
    const name = nameOf(index);
    if ($("scene").textContent !== name) $("scene").textContent = name; // read out only where it changes
    $("about").textContent = about;
    scores.forEach((score, each) => {
        rows[each].row.classList.toggle("best", each === index);
        rows[each].bar.style.inlineSize = `${100 * score}%`;
        rows[each].share.textContent = percent(score);
    });
}

/** Show the log-mel of some clips. */
function showPicture(decisions, what) {
    drawLogMel($("picture"), decisions.map((each) => each.features), scene.mels, scene.frames);
    $("picture").setAttribute("aria-label", `Log-mel of ${what}`);
    $("pictured").textContent = what;
}

function showTime() {
    const sorted = [...times].sort((a, b) => a - b);
    $("time").textContent = `${sorted[sorted.length >> 1].toFixed(1)} ms`;
}

/** Push sound and time it: front end and network. */
function decide(pcm, spent = 0) {
    const start = performance.now();
    const decisions = scene.push(pcm);
    const milliseconds = spent + performance.now() - start;
    if (!decisions.length) return { decisions, milliseconds };
    times.push(milliseconds / decisions.length);
    if (times.length > DECISIONS_TIMED) times.shift();
    showTime();
    return { decisions, milliseconds: 0 };
}

function begin(name) {
    turn++;
    microphone?.stop();
    microphone = null;
    times.length = 0;
    result = null;
    scene.reset();
    $("listen").textContent = "Use the microphone";
    $("listen").setAttribute("aria-pressed", "false");
    $("level").value = 0;
    $("seconds").replaceChildren();
    document.body.dataset.source = name;
    return turn;
}

async function toggleMicrophone() {
    if (microphone) {
        begin("none");
        say("The microphone is off.");
        return;
    }
    const mine = begin("microphone");
    say("Waiting for the microphone…");
    let spent = 0;
    const hear = (pcm, loudest, isGap) => {
        if (isGap) {
            scene.reset();
            say("This machine is too slow: some audio was skipped.", true);
        }
        $("level").value = loudest;
        const { decisions, milliseconds } = decide(pcm, spent);
        spent = milliseconds;
        for (const decision of decisions.slice(-1)) {
            const about = `${percent(Math.max(...decision.probabilities))}, the last ${clipWords}`;
            showScores(decision.probabilities, about, decision.index);
            showPicture([decision], `the last ${clipWords}`);
        }
    };
    const lost = () => {
        begin("none");
        say("The microphone was disconnected.", true);
    };
    try {
        const opened = await listen(scene.sampleRate, model.worklet, hear, lost);
        if (mine !== turn) return opened.stop(); // something else was asked for meanwhile
        microphone = opened;
    } catch (error) {
        if (mine !== turn) return;
        begin("none");
        say(error instanceof NoMicrophone ? `Not listening: ${error.message}.` : `Not listening: ${error}.`, true);
        return;
    }
    $("listen").textContent = "Stop listening";
    $("listen").setAttribute("aria-pressed", "true");
    const rate = microphone.contextRate;
    const way = rate === scene.sampleRate ? "" : `, resampled here to ${scene.sampleRate.toLocaleString("en")} Hz`;
    say(`Listening at ${rate.toLocaleString("en")} Hz${way}. A decision every ${model.hop} s.`);
}

async function classify(file) {
    const mine = begin("file");
    say(`Reading ${file.name}…`);
    try {
        const recording = await readRecording(file, scene.sampleRate, model.samples);
        const decided = [];
        for (const clip of makeClips(recording, scene.sampleRate, model.samples)) {
            scene.reset();
            decided.push(...decide(clip).decisions);
            if (decided.length % 8 === 0) await new Promise((go) => setTimeout(go)); // so that the page stays alive
            if (mine !== turn) return;
        }
        if (mine === turn) showFile(file.name, decided, recording.notes);
    } catch (error) {
        if (mine !== turn) return;
        begin("none");
        say(`${file.name}: ${error instanceof Unusable ? error.message : error}.`, true);
    }
}

/** What `tinyscene classify --json` says of a file, and the logits. */
function describe(probabilities, decided) {
    const scores = Object.fromEntries(scene.labels.map((label, index) => [label, probabilities[index]]));
    return { scene: scene.labels[decided] ?? nameOf(decided), scores };
}

/** The class of a file whose seconds were decided on each by itself: none of these if most of them are. */
function decideOn(mean, decided) {
    const unknown = decided.filter((each) => each.index === scene.labels.length).length;
    return 2 * unknown > decided.length ? scene.labels.length : best(mean);
}

function showFile(name, decided, notes) {
    const mean = scene.labels.map((_, index) => average(decided.map((each) => each.probabilities[index])));
    const whole = decideOn(mean, decided);
    const seconds = decided.map((each, index) => {
        const described = describe(each.probabilities, each.index);
        return { start: index * model.clip, ...described, logits: [...each.logits] };
    });
    result = { file: name, model: model.graph, ...describe(mean, whole), seconds, notes };
    const unit = model.clip === 1 ? "second" : `clip of ${model.clip} s`;
    const length = `${decided.length} ${decided.length === 1 ? unit : unit.replace(/^(second|clip)/, "$1s")}`;
    offer("all", mean, whole, decided, `the mean of ${length} of ${name}`, name).click();
    const time = (index) => +(index * model.clip).toFixed(2);
    decided.forEach((each, index) => {
        const span = `${time(index)} to ${time(index + 1)} s`;
        offer(span, each.probabilities, each.index, [each], span, span);
    });
    say([`${name}: ${length}`, ...notes, ""].join(". "));
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A button of the list that shows these scores and the log-mel of these decisions. */
function offer(span, scores, index, decisions, about, pictured) {
    const share = percent(Math.max(...scores));
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.textContent = `${span}: ${nameOf(index)}, ${share}`;
    button.addEventListener("click", () => {
        for (const each of $("seconds").querySelectorAll("button")) each.setAttribute("aria-pressed", each === button);
        showScores(scores, `${share}, ${about}`, index);
        showPicture(decisions, pictured);
    });
    const item = document.createElement("li");
    item.append(button);
    $("seconds").append(item);
    return button;
}

function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(result, null, 2)}\n`], { type: "application/json" }));
    link.download = `${result.file}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function takeDrops() {
    const over = (event) => {
        event.preventDefault();
        document.body.classList.toggle("over", event.type === "dragover");
    };
    for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
    document.addEventListener("drop", (event) => {
        const [file] = event.dataTransfer.files;
        if (file) classify(file);
    });
}

async function open() {
    scene = await Tinyscene.load(...model.wasm.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))));
    makeScores();
    labelBands($("bands"), model.bands);
    $("listen").addEventListener("click", toggleMicrophone);
    $("file").addEventListener("change", () => {
        const [file] = $("file").files;
        $("file").value = ""; // so that the same file can be chosen again
        if (file) classify(file);
    });
    $("save").addEventListener("click", save);
    takeDrops();
    for (const control of document.querySelectorAll("[disabled]")) control.disabled = false;
    say("Ready.");
}

open().catch((error) => say(`This browser cannot run the network: ${error.message ?? error}.`, true));
