// Stand-in for the synthesis tool's header of the same name in builds on a host: a beat of an
// AXI4-Stream with TKEEP, TSTRB and TLAST. Never on a synthesis path.
#ifndef BP_HOST_AP_AXI_SDATA_H
#define BP_HOST_AP_AXI_SDATA_H

#include <cstdint>

#if defined(BP_NATIVE)
template <int D, int U, int TI, int TD> struct ap_axiu {
    static_assert(D <= 64, "a beat has at most 64 bits");
    uint64_t data;
    int keep;
    int strb;
    int last;
};
#else
#include <ap_int.h>
template <int D, int U, int TI, int TD> struct ap_axiu {
    ap_uint<D> data;
    ap_uint<(D + 7) / 8> keep;
    ap_uint<(D + 7) / 8> strb;
    ap_uint<1> last;
};
#endif

#endif
