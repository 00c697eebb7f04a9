// Whole units with their streams, as large as a layer: what the resource model is judged by. Each is one
// pipeline that stalls as a whole (`en`), with handshakes at its ends.

// y = clamp((bias + sum x * w) * m + k): FOLDS turns of STEPS words for each of GROUPS operands.
module dense_unit #(parameter PE = 1, SIMD = 1, LEVELS = 0, XW = 8, WW = 8, PW = 16, AW = 24, KIND = 0,
    GROUPS = 1, FOLDS = 1, STEPS = 1, CFOLD = 1, CSTEP = 1, CGROUP = 1, AHELD = 1, AWORD = 1, AROW = 1,
    WBLOCK = 0, BBLOCK = 0, HBLOCK = 0, WORDS = 1, MW = 18, KW = 32, TW = 40, SHIFT = 24, YW = 8,
    parameter signed [31:0] LO = -128, parameter signed [31:0] HI = 127, parameter
    TAPS = 0, WFILE = "", BFILE = "", MFILE = "", KFILE = "") (
    input clk, input rst, input [(TAPS ? PE : 1)*SIMD*XW-1:0] x, input x_valid, output x_ready,
    output [PE*YW-1:0] y, output y_valid, input y_ready);
    localparam HELD = FOLDS > 1 && TAPS == 0;
    localparam ROWS = GROUPS * FOLDS;
    localparam LANES = TAPS ? PE : 1;
    wire [CSTEP-1:0] step;
    wire [CFOLD-1:0] fold;
    wire [AROW-1:0] row;
    wire [AWORD-1:0] word;
    wire last, fold_last, row_last, word_last;
    localparam LATE = 2 + LEVELS;
    reg [LATE:0] live, ends;
    reg [2:0] valid;
    wire fresh = !HELD || fold == 0;
    wire en = !valid[2] || y_ready;
    wire go = en && (!fresh || x_valid);
    assign x_ready = en && fresh;
    assign y_valid = valid[2];
    counter #(STEPS, CSTEP) steps(clk, rst, go, step, last);
    generate
        if (HELD) begin : turns
            counter #(FOLDS, CFOLD) folds(clk, rst, go && last, fold, fold_last);
        end else begin : once
            assign fold = 0;
        end
        if (ROWS > 1) begin : rows
            counter #(ROWS, AROW) places(clk, rst, go && last, row, row_last);
        end else begin : one
            assign row = 0;
        end
        if (WORDS > 1) begin : words
            counter #(WORDS, AWORD) places(clk, rst, go, word, word_last);
        end else begin : alone
            assign word = 0;
        end
    endgenerate
    reg [LANES*SIMD*XW-1:0] direct;
    wire [LANES*SIMD*XW-1:0] kept;
    reg kept_now;
    always @(posedge clk) if (en) begin
        direct <= x;
        kept_now <= !fresh;
    end
    generate
        if (HELD && HBLOCK) begin : held
            ram_block #(SIMD*XW, STEPS, AHELD) memory(clk, go && fresh, step[AHELD-1:0], x, en, step[AHELD-1:0], kept);
        end else if (HELD) begin : held
            ram_logic #(SIMD*XW, STEPS, AHELD) memory(clk, go && fresh, step[AHELD-1:0], x, en, step[AHELD-1:0], kept);
        end else begin : passed
            assign kept = direct;
        end
    endgenerate
    wire [LANES*SIMD*XW-1:0] operand = HELD && kept_now ? kept : direct;
    wire [AROW-1:0] early, late;
    wire first;
    delay #(AROW, LATE - 1) to_bias(clk, en, row, early);
    delay #(AROW, 2) to_scale(clk, en, early, late);
    delay #(1, LATE) to_first(clk, en, step == 0, first);
    wire [PE*SIMD*WW-1:0] w;
    wire [PE*AW-1:0] bias;
    wire [PE*MW-1:0] m;
    wire [PE*KW-1:0] k;
    generate
        if (WBLOCK) begin : weights
            rom_block #(PE*SIMD*WW, WORDS, AWORD, WFILE) memory(clk, en, word, w);
        end else begin : weights
            rom_logic #(PE*SIMD*WW, WORDS, AWORD, WFILE) memory(clk, en, word, w);
        end
        if (BBLOCK) begin : constants
            rom_block #(PE*AW, ROWS, AROW, BFILE) biases(clk, en, early, bias);
            rom_block #(PE*MW, ROWS, AROW, MFILE) multipliers(clk, en, late, m);
            rom_block #(PE*KW, ROWS, AROW, KFILE) offsets(clk, en, late, k);
        end else begin : constants
            rom_logic #(PE*AW, ROWS, AROW, BFILE) biases(clk, en, early, bias);
            rom_logic #(PE*MW, ROWS, AROW, MFILE) multipliers(clk, en, late, m);
            rom_logic #(PE*KW, ROWS, AROW, KFILE) offsets(clk, en, late, k);
        end
    endgenerate
    // The pipeline: constants, products, tree, sum, complete, rescaled, stored. Without the register of
    // complete sums yosys 0.23 takes the accumulator for a slice's pre-adder and loses its feedback.
    wire [PE*AW-1:0] acc;
    reg [PE*AW-1:0] complete;
    always @(posedge clk) if (en) complete <= acc;
    always @(posedge clk) if (rst) begin
        valid <= 0;
        live <= 0;
        ends <= 0;
    end else if (en) begin
        live <= {live[LATE-1:0], go};
        ends <= {ends[LATE-1:0], go && last};
        valid <= {valid[1:0], ends[LATE]};
    end
    mac #(PE, SIMD, LEVELS, XW, WW, PW, AW, KIND, LANES == 1) sums(
        clk, en, en && live[LATE-1], first, operand, w, bias, acc);
    genvar p;
    generate
        for (p = 0; p < PE; p = p + 1) begin : stored
            mulshift #(AW, MW, KW, TW, SHIFT, YW, LO, HI) one(
                clk, en, complete[p*AW +: AW], m[p*MW +: MW], k[p*KW +: KW], y[p*YW +: YW]);
        end
    endgenerate
endmodule

// The words of every window over a map, from a ring of rows.
module window_unit #(parameter LANES = 1, XW = 8, WORDS = 1, IN_H = 8, IN_W = 8, OUT_H = 8, OUT_W = 8,
    KH = 3, KW = 3, STRIDE = 1, BEFORE_H = 1, BEFORE_W = 1, HELD = 4, ROW = 8, SENT = 72, TIME = 72, FILL = 0,
    CW = 8, AR = 6, CROW = 4, CT = 8, CS = 2, BLOCK = 0, PROLOGUE = 2) (
    input clk, input rst, input [LANES*XW-1:0] x, input x_valid, output x_ready,
    output [LANES*XW-1:0] y, output y_valid, input y_ready);
    reg signed [CW-1:0] phase, base, left, loaded, needed;
    reg [CS-1:0] slot, load_slot;
    reg [CROW-1:0] column;
    reg [CT-1:0] time_now, sent;
    reg [CW-1:0] ky, kx;
    reg [AR-1:0] left_word, kx_word;
    reg [CROW-1:0] word;
    reg out, inside2, inside3, out2;
    wire en = !out || y_ready;
    wire loading = loaded < needed;
    wire sending = phase >= 0 && sent < SENT;
    wire go = en && (!loading || x_valid);
    (* rom_style = "logic", ram_style = "logic" *) reg [AR-1:0] row_starts [0:(1<<CS)-1];
    integer i;
    initial for (i = 0; i < (1 << CS); i = i + 1) row_starts[i] = i < HELD ? i * ROW : 0;
    wire [AR-1:0] to = row_starts[load_slot] + column;
    wire signed [CW-1:0] row = base + ky;
    wire signed [CW-1:0] col = left + kx;
    wire inside = row >= 0 && row < IN_H && col >= 0 && col < IN_W;
    wire [CS:0] moved = slot + ky;
    wire [CS:0] place = moved >= HELD ? moved - HELD : moved;
    reg [AR-1:0] at;
    wire [LANES*XW-1:0] q;
    assign x_ready = en && loading;
    assign y_valid = out;
    generate
        if (BLOCK) begin : ring
            ram_block #(LANES*XW, HELD*ROW, AR) memory(clk, go && loading, to, x, go, at, q);
        end else begin : ring
            ram_logic #(LANES*XW, HELD*ROW, AR) memory(clk, go && loading, to, x, go, at, q);
        end
    endgenerate
    assign y = inside3 ? q : {LANES{FILL[XW-1:0]}};
    wire column_last = column == ROW - 1;
    wire word_last = word == WORDS - 1;
    wire kx_last = kx == KW - 1;
    wire ky_last = ky == KH - 1;
    wire turn = time_now == (phase < 0 ? PROLOGUE * ROW : TIME) - 1;
    wire [CS:0] next_slot = slot + STRIDE;
    always @(posedge clk) if (rst) begin
        phase <= -1;
        base <= -BEFORE_H;
        left <= -BEFORE_W;
        {slot, load_slot, column, time_now, sent, ky, kx, kx_word, word, loaded, out, out2} <= 0;
        left_word <= -BEFORE_W * WORDS;
        needed <= PROLOGUE;
    end else if (go) begin
        at <= row_starts[place[CS-1:0]] + left_word + kx_word + word;
        inside2 <= inside;
        inside3 <= inside2;
        out2 <= sending;
        out <= out2;
        if (loading) begin
            column <= column_last ? 0 : column + 1;
            if (column_last) begin
                loaded <= loaded + 1;
                load_slot <= load_slot == HELD - 1 ? 0 : load_slot + 1;
            end
        end
        if (sending) begin
            sent <= sent + 1;
            word <= word_last ? 0 : word + 1;
            if (word_last) kx <= kx_last ? 0 : kx + 1;
            if (word_last) kx_word <= kx_last ? 0 : kx_word + WORDS;
            if (word_last && kx_last) ky <= ky_last ? 0 : ky + 1;
            if (word_last && kx_last && ky_last) begin
                left <= left + STRIDE;
                left_word <= left_word + STRIDE * WORDS;
            end
        end
        time_now <= turn ? 0 : time_now + 1;
        if (turn) begin
            sent <= 0;
            left <= -BEFORE_W;
            left_word <= -BEFORE_W * WORDS;
            phase <= phase + 1;
            base <= base + STRIDE;
            needed <= needed + STRIDE > IN_H ? IN_H : needed + STRIDE;
            slot <= next_slot >= HELD ? next_slot - HELD : next_slot;
        end
    end else if (y_ready) out <= 0;
endmodule

// y = clamp((a * MA + b * MB + k) >> SHIFT) of two streams, PE elements a word.
module pair_unit #(parameter PE = 1, XW = 8, MW = 12, TW = 24, SHIFT = 12, YW = 8,
    parameter signed [31:0] LO = -128, parameter signed [31:0] HI = 127, parameter MA = 3001, MB = 1777, K = 2048) (
    input clk, input rst, input [PE*XW-1:0] a, input a_valid, output a_ready, input [PE*XW-1:0] b, input b_valid,
    output b_ready, output reg [PE*YW-1:0] y, output reg y_valid, input y_ready);
    reg live, live2;
    wire en = !y_valid || y_ready;
    wire go = en && a_valid && b_valid;
    assign a_ready = go;
    assign b_ready = go;
    always @(posedge clk) if (rst) {live, live2, y_valid} <= 0; else if (en) {live, live2, y_valid} <= {go, live, live2};
    genvar p;
    generate
        for (p = 0; p < PE; p = p + 1) begin : lane
            reg signed [XW-1:0] u, v;
            reg signed [TW-1:0] left, right;
            wire signed [MW-1:0] ma = MA;
            wire signed [MW-1:0] mb = MB;
            wire signed [TW-1:0] total = left + right + K;
            wire signed [TW-SHIFT-1:0] shifted = total >>> SHIFT;
            always @(posedge clk) if (en) begin
                u <= a[p*XW +: XW];
                v <= b[p*XW +: XW];
                left <= u * ma;
                right <= v * mb;
                y[p*YW +: YW] <= shifted < LO ? LO : shifted > HI ? HI : shifted[YW-1:0];
            end
        end
    endgenerate
endmodule

// y = the number of thresholds that x reaches, constants per channel; PE elements a word.
module map_unit #(parameter PE = 1, N = 15, XW = 16, YW = 4, ROWS = 1, AROW = 1, TFILE = "") (
    input clk, input rst, input [PE*XW-1:0] x, input x_valid, output x_ready,
    output [PE*YW-1:0] y, output reg y_valid, input y_ready);
    wire en = !y_valid || y_ready;
    wire go = en && x_valid;
    wire [AROW-1:0] row;
    wire last;
    wire [PE*N*XW-1:0] t;
    reg [PE*XW-1:0] held;
    reg live;
    assign x_ready = en;
    generate
        if (ROWS > 1) begin : rows
            counter #(ROWS, AROW) places(clk, rst, go, row, last);
        end else begin : one
            assign row = 0;
        end
    endgenerate
    rom_logic #(PE*N*XW, ROWS, AROW, TFILE) constants(clk, en, row, t);
    always @(posedge clk) if (en) held <= x;
    always @(posedge clk) if (rst) {live, y_valid} <= 0; else if (en) {live, y_valid} <= {go, live};
    genvar p;
    generate
        for (p = 0; p < PE; p = p + 1) begin : lane
            thresholds #(N, XW, YW) one(clk, en, held[p*XW +: XW], t[p*N*XW +: N*XW], y[p*YW +: YW]);
        end
    endgenerate
endmodule
