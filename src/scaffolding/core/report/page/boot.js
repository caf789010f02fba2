// Unpacks the scripts of the page, which lie in it compressed and in base64, and runs them.

/** Run the packed script of an element. */
async function runPacked(id) {
    const text = document.getElementById(id).textContent;
    const packed = Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
}

runPacked("scripts");
