// Unpacks what lies in the page compressed and in base64: what the runs say, and the scripts, which it runs.

let data = null; // what Python wrote; see core/report/content.py and compare.py

/** What an element holds, unpacked. */
function unpacked(id) {
    const text = atob(document.getElementById(id).textContent);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}

/** Run the packed script of an element. */
async function runPacked(id) {
    const script = document.createElement("script");
    script.textContent = await unpacked(id).text();
    document.head.append(script);
}

async function makePage() {
    data = await unpacked("data").json();
    await runPacked("scripts");
}

makePage();
