// Primitive datapaths for calibrating the resource model: arithmetic, constants and storage of units.
// Numbers are two's complement; the generator gives an unsigned operand one more bit, always zero.

// One product. KIND 0 multiplies, 1 adds shifted operands for a weight of two bits, 2 adds or subtracts
// for a weight of one bit that means -1 or 1, 3 compares two such bits, 4 adds or subtracts TERMS shifted
// operands, each by a field of the weight: whether it counts, whether it is negative, SB bits of shift;
// 5 adds a shifted operand for each bit of the weight.
module product #(parameter XW = 8, WW = 8, PW = 16, KIND = 0, TERMS = 1, SB = 1) (
    input signed [XW-1:0] x, input signed [WW-1:0] w, output signed [PW-1:0] p);
    genvar t;
    generate
        if (KIND == 0) begin : multiply
            assign p = x * w;
        end else if (KIND == 1) begin : planes
            wire signed [PW-1:0] first = w[0] ? {{(PW-XW){x[XW-1]}}, x} : {PW{1'b0}};
            wire signed [PW-1:0] second = w[WW-1] ? {{(PW-XW-1){x[XW-1]}}, x, 1'b0} : {PW{1'b0}};
            assign p = first - second;
        end else if (KIND == 3) begin : count
            assign p = {{(PW-1){1'b0}}, ~(x[0] ^ w[0])};
        end else if (KIND == 4) begin : shifts
            for (t = 0; t < TERMS; t = t + 1) begin : term
                wire signed [PW-1:0] moved = w[t*(SB+2)] ? $signed(x) <<< w[t*(SB+2)+2 +: SB] : 0;
                wire signed [PW-1:0] sum;
                if (t == 0) begin : first
                    assign sum = w[1] ? -moved : moved;
                end else begin : next
                    assign sum = w[t*(SB+2)+1] ? term[t-1].sum - moved : term[t-1].sum + moved;
                end
            end
            assign p = term[TERMS-1].sum;
        end else if (KIND == 5) begin : rows
            for (t = 0; t < WW; t = t + 1) begin : bits
                wire signed [PW-1:0] moved = w[t] ? $signed(x) <<< t : 0;
                wire signed [PW-1:0] sum;
                if (t == 0) begin : first
                    assign sum = moved;
                end else if (t == WW - 1) begin : last
                    assign sum = bits[t-1].sum - moved;
                end else begin : next
                    assign sum = bits[t-1].sum + moved;
                end
            end
            assign p = bits[WW-1].sum;
        end else begin : signs
            assign p = w[0] ? {{(PW-XW){x[XW-1]}}, x} : -{{(PW-XW){x[XW-1]}}, x};
        end
    endgenerate
endmodule

// The sum of N numbers in a binary tree: each level is registered and one bit wider.
module tree #(parameter N = 4, W = 8, L = 2) (
    input clk, input en, input [N*W-1:0] x, output signed [W+L-1:0] y);
    genvar level, i;
    generate
        for (level = 0; level <= L; level = level + 1) begin : levels
            localparam M = (N + (1 << level) - 1) >> level;
            wire signed [W+level-1:0] sums [0:M-1];
            for (i = 0; i < M; i = i + 1) begin : at
                if (level == 0) begin : leaf
                    assign sums[i] = x[i*W +: W];
                end else begin : join
                    localparam BELOW = (N + (1 << (level-1)) - 1) >> (level-1);
                    reg signed [W+level-1:0] held;
                    assign sums[i] = held;
                    if (2*i + 1 < BELOW) begin : two
                        always @(posedge clk) if (en) held <= levels[level-1].sums[2*i] + levels[level-1].sums[2*i+1];
                    end else begin : one
                        always @(posedge clk) if (en) held <= levels[level-1].sums[2*i];
                    end
                end
            end
        end
        assign y = levels[L].sums[0];
    endgenerate
endmodule

// PE sums of SIMD products: products and their tree are registered (`en`), then accumulated (`add`).
module mac #(parameter PE = 1, SIMD = 1, LEVELS = 0, XW = 8, WW = 8, PW = 16, AW = 24, KIND = 0, SAME = 0, TERMS = 1, SB = 1) (
    input clk, input en, input add, input first, input [(SAME ? 1 : PE)*SIMD*XW-1:0] x, input [PE*SIMD*WW-1:0] w,
    input [PE*AW-1:0] bias, output reg [PE*AW-1:0] acc);
    genvar p, s;
    generate
        for (p = 0; p < PE; p = p + 1) begin : lane
            wire [SIMD*PW-1:0] products;
            reg [SIMD*PW-1:0] held;
            wire signed [PW+LEVELS-1:0] sum;
            for (s = 0; s < SIMD; s = s + 1) begin : term
                product #(XW, WW, PW, KIND, TERMS, SB) one(
                    x[((SAME ? 0 : p*SIMD)+s)*XW +: XW], w[(p*SIMD+s)*WW +: WW], products[s*PW +: PW]);
            end
            always @(posedge clk) if (en) held <= products;
            tree #(SIMD, PW, LEVELS) adders(clk, en, held, sum);
            wire signed [AW-1:0] base = first ? bias[p*AW +: AW] : acc[p*AW +: AW];
            wire signed [AW-1:0] next = base + (KIND == 3 ? sum <<< 1 : sum);
            always @(posedge clk) if (add) acc[p*AW +: AW] <= next;
        end
    endgenerate
endmodule

// clamp((x * m + k) >> SHIFT, LO, HI); the product is registered.
module mulshift #(parameter XW = 24, MW = 18, KW = 32, TW = 40, SHIFT = 24, YW = 8,
    parameter signed [31:0] LO = -128, parameter signed [31:0] HI = 127) (
    input clk, input en, input signed [XW-1:0] x, input signed [MW-1:0] m, input signed [KW-1:0] k,
    output reg [YW-1:0] y);
    reg signed [TW-1:0] held;
    reg signed [KW-1:0] offset;
    wire signed [TW-1:0] total = held + offset;
    wire signed [TW-SHIFT-1:0] shifted = total >>> SHIFT;
    always @(posedge clk) if (en) begin
        held <= x * m;
        offset <= k;
        y <= shifted < LO ? LO : shifted > HI ? HI : shifted[YW-1:0];
    end
endmodule

// The number of N thresholds that x reaches.
module thresholds #(parameter N = 15, XW = 16, YW = 4) (
    input clk, input en, input signed [XW-1:0] x, input [N*XW-1:0] t, output reg [YW-1:0] y);
    integer i;
    reg [YW-1:0] count;
    always @* begin
        count = 0;
        for (i = 0; i < N; i = i + 1) count = count + ($signed(x) >= $signed(t[i*XW +: XW]));
    end
    always @(posedge clk) if (en) y <= count;
endmodule

// Constants with a registered output, in logic or in block memory.
module rom_logic #(parameter W = 8, D = 64, A = 6, FILE = "") (
    input clk, input en, input [A-1:0] at, output reg [W-1:0] q);
    (* rom_style = "logic", ram_style = "logic" *) reg [W-1:0] mem [0:D-1];
    initial $readmemh(FILE, mem);
    always @(posedge clk) if (en) q <= mem[at];
endmodule

module rom_block #(parameter W = 8, D = 1024, A = 10, FILE = "") (
    input clk, input en, input [A-1:0] at, output reg [W-1:0] q);
    (* rom_style = "block", ram_style = "block" *) reg [W-1:0] mem [0:D-1];
    initial $readmemh(FILE, mem);
    always @(posedge clk) if (en) q <= mem[at];
endmodule

// A memory with a port to write and a port to read.
module ram_logic #(parameter W = 8, D = 64, A = 6) (
    input clk, input we, input [A-1:0] to, input [W-1:0] d, input en, input [A-1:0] at, output reg [W-1:0] q);
    (* ram_style = "distributed" *) reg [W-1:0] mem [0:D-1];
    always @(posedge clk) begin
        if (we) mem[to] <= d;
        if (en) q <= mem[at];
    end
endmodule

module ram_block #(parameter W = 8, D = 1024, A = 10) (
    input clk, input we, input [A-1:0] to, input [W-1:0] d, input en, input [A-1:0] at, output reg [W-1:0] q);
    (* ram_style = "block" *) reg [W-1:0] mem [0:D-1];
    always @(posedge clk) begin
        if (we) mem[to] <= d;
        if (en) q <= mem[at];
    end
endmodule

// A stream of words: shift registers up to 32 words, else block memory (STYLE 1).
module fifo #(parameter W = 8, D = 16, A = 4, STYLE = 0) (
    input clk, input rst, input [W-1:0] d, input d_valid, output d_ready,
    output [W-1:0] q, output q_valid, input q_ready);
    reg [A:0] level;
    wire push = d_valid && d_ready;
    wire pop = q_valid && q_ready;
    assign d_ready = level != D;
    assign q_valid = level != 0;
    genvar i;
    generate
        if (STYLE == 0) begin : shift
            wire [A-1:0] last = level - 1'b1;
            for (i = 0; i < W; i = i + 1) begin : bits
                reg [D-1:0] line;
                always @(posedge clk) if (push) line <= {line[D-2:0], d[i]};
                assign q[i] = line[last];
            end
            always @(posedge clk) level <= rst ? 0 : level + push - pop;
        end else begin : block
            reg [A-1:0] to, at;
            wire [A-1:0] next = pop ? (at == D - 1 ? 0 : at + 1) : at;
            ram_block #(W, D, A) memory(clk, push, to, d, 1'b1, next, q);
            always @(posedge clk) begin
                level <= rst ? 0 : level + push - pop;
                to <= rst ? 0 : push ? (to == D - 1 ? 0 : to + 1) : to;
                at <= rst ? 0 : next;
            end
        end
    endgenerate
endmodule

// A counter below N that tells when it comes round.
module counter #(parameter N = 16, W = 4) (input clk, input rst, input step, output reg [W-1:0] q, output last);
    assign last = q == N - 1;
    always @(posedge clk) if (rst) q <= 0; else if (step) q <= last ? 0 : q + 1'b1;
endmodule

// A bus delayed by N cycles.
module delay #(parameter W = 1, N = 1) (input clk, input en, input [W-1:0] d, output [W-1:0] q);
    genvar i;
    generate
        for (i = 0; i <= N; i = i + 1) begin : stage
            reg [W-1:0] held;
            if (i > 0) begin : step
                always @(posedge clk) if (en) held <= i == 1 ? d : stage[i-1].held;
            end
        end
        if (N == 0) begin : none
            assign q = d;
        end else begin : some
            assign q = stage[N].held;
        end
    endgenerate
endmodule
