// The log-mel as a picture: low bands at the bottom, time to the right, a pixel a value.

// From faint to loud. Lightness rises evenly, so that the picture reads without colour, too.
const STOPS = [[6, 8, 24], [48, 18, 92], [118, 30, 110], [188, 55, 84], [237, 105, 37], [251, 180, 50], [252, 255, 190]];
const WIDEST = 4096; // pixels; of longer recordings only some frames are drawn

const COLOURS = Uint32Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (STOPS.length - 1);
    const index = Math.min(Math.floor(place), STOPS.length - 2);
    const [red, green, blue] = STOPS[index].map((low, each) => low + (STOPS[index + 1][each] - low) * (place - index));
    return (255 << 24) | (blue << 16) | (green << 8) | red; // as little-endian bytes: red first
});

/** Draw int8 features of seconds, one after the other, each band by band, into a canvas, which takes their size. */
export function drawLogMel(canvas, seconds, mels, frames) {
    const total = seconds.length * frames;
    const step = Math.ceil(total / WIDEST);
    canvas.width = Math.floor(total / step);
    canvas.height = mels;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, mels);
    const pixels = new Uint32Array(image.data.buffer);
    for (let x = 0; x < canvas.width; x++) {
        const features = seconds[Math.floor((x * step) / frames)];
        const frame = (x * step) % frames;
        for (let mel = 0; mel < mels; mel++)
            pixels[(mels - 1 - mel) * canvas.width + x] = COLOURS[features[mel * frames + frame] + 128];
    }
    context.putImageData(image, 0, 0);
}

/** Name some frequencies beside a picture: [{hertz, place}], the place from 0 at the bottom to 1. */
export function labelBands(axis, bands) {
    for (const { hertz, place } of bands) {
        const tick = document.createElement("span");
        tick.textContent = hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`;
        tick.style.bottom = `${100 * place}%`;
        axis.append(tick);
    }
}
